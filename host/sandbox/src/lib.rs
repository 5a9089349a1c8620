//! One call of one component: engine settings, compilation and its cache, limits, bindings.
