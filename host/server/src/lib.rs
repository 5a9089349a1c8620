//! The REST service: APIs, scheduler, catalog and ledger, auth, metrics.
