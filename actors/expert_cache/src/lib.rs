//! ExpertCacheActor: verified memory maps of experts, byte-bounded, least recently used.
