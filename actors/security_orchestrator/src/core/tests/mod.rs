mod orders;
mod random;
mod recovery;
mod rules;
mod world;
