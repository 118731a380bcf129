//! memcached, Redis and in-process caches behind one trait.
