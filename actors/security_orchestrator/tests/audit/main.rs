//! The audit log against attackers, crashes and disks that fail.

mod attacks;
mod crash;
mod house;
mod kill;
