//! Supervision trees over actix: declarative children, restart windows, quarantine.
