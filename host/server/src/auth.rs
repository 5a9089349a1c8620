//! Who is calling and what they may do: tokens, scopes, and the functions that ask for a scope.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::catalog::Snapshot;
use crate::problem::Problem;
use crate::store::now_ms;

/// What every token begins with, so that scanners for leaked secrets find it.
pub(crate) const PREFIX: &str = "mqt_";

/// The owner that the admin token and calls without authentication act for.
pub(crate) const ADMIN_OWNER: &str = "admin";

/// One thing a token may allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scope {
    /// List and look at models and versions.
    Read,
    /// Run models.
    Predict,
    /// Send blobs and publish versions under the token's owner.
    Publish,
    /// Everything, for every owner.
    Admin,
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Scopes(u8);

impl Scopes {
    /// Every scope there is.
    pub(crate) const ALL: [Scope; 4] = [Scope::Read, Scope::Predict, Scope::Publish, Scope::Admin];

    /// The set of these.
    pub(crate) fn of(scopes: &[Scope]) -> Self {
        Self(scopes.iter().fold(0, |set, scope| set | 1 << *scope as u8))
    }

    /// Whether the set holds a scope; `admin` holds every other.
    pub(crate) fn allows(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u8 | 1 << Scope::Admin as u8) != 0
    }

    /// The set as a list.
    pub(crate) fn list(self) -> Vec<Scope> {
        Self::ALL
            .into_iter()
            .filter(|scope| self.0 & 1 << *scope as u8 != 0)
            .collect()
    }
}

/// A token as it is kept: never the secret, only its sha256.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    /// Names the token in lists and when it is revoked.
    pub(crate) id: String,
    /// sha256 of the whole token text. A fast hash is right for 160 random bits.
    pub(crate) hash: [u8; 32],
    /// Whose it is; the tenant that its calls count for.
    pub(crate) owner: Arc<str>,
    /// What it is for, in the words of whoever made it.
    pub(crate) label: String,
    /// What it allows.
    pub(crate) scopes: Scopes,
    /// Unix milliseconds.
    pub(crate) created_at: i64,
    /// From when on it opens nothing, in Unix milliseconds.
    pub(crate) expires_at: Option<i64>,
    /// When it was last used, in Unix milliseconds; 0 for never.
    pub(crate) last_used_at: Arc<AtomicI64>,
}

/// sha256 of a token's text.
pub(crate) fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// A new secret: the prefix and 160 random bits in base 32.
pub(crate) fn new_secret() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 20];
    getrandom::fill(&mut bytes)?;
    Ok(format!("{PREFIX}{}", crate::ids::base32(&bytes)))
}

/// Whoever sent a request, proven.
#[derive(Clone, Debug)]
pub(crate) struct Principal(Arc<Token>);

impl Principal {
    /// Whoever calls a server without authentication.
    pub(crate) fn anyone() -> Self {
        Self(Arc::new(Token {
            id: "anyone".to_owned(),
            hash: [0; 32],
            owner: ADMIN_OWNER.into(),
            label: "authentication is off".to_owned(),
            scopes: Scopes::of(&[Scope::Admin]),
            created_at: 0,
            expires_at: None,
            last_used_at: Arc::default(),
        }))
    }

    /// The tenant that the request counts for.
    pub(crate) fn owner(&self) -> &Arc<str> {
        &self.0.owner
    }

    /// Names the token in what it used.
    pub(crate) fn token_id(&self) -> &str {
        &self.0.id
    }

    /// Whether the token allows everything.
    pub(crate) fn is_admin(&self) -> bool {
        self.0.scopes.allows(Scope::Admin)
    }

    /// Asks for a scope.
    pub(crate) fn require(&self, scope: Scope) -> Result<(), Problem> {
        if self.0.scopes.allows(scope) {
            return Ok(());
        }
        let name = format!("{scope:?}").to_lowercase();
        Err(Problem::forbidden(format!(
            "this token lacks the scope `{name}`; use one that has it"
        )))
    }

    /// Asks for the right to publish under an owner's name.
    pub(crate) fn require_publish(&self, owner: &str) -> Result<(), Problem> {
        self.require(Scope::Publish)?;
        if self.publishes_for(owner) {
            return Ok(());
        }
        Err(Problem::forbidden(format!(
            "this token publishes as `{}/…` only",
            self.0.owner
        )))
    }

    /// Whether this is a contributor of the owner's models, who may see their models' inner life.
    pub(crate) fn publishes_for(&self, owner: &str) -> bool {
        self.is_admin() || (self.0.scopes.allows(Scope::Publish) && &*self.0.owner == owner)
    }
}

/// Finds out who sent a request: `Authorization: Bearer mqt_…` or `Token mqt_…`.
pub(crate) fn authenticate(snapshot: &Snapshot, headers: &HeaderMap) -> Result<Principal, Problem> {
    let secret = headers
        .get(AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(credential);
    let secret = secret.ok_or_else(Problem::unauthenticated)?;
    let hash = hash(secret);
    match snapshot.token(&hash) {
        Some(token) if same(&token.hash, &hash) => {
            let now = now_ms();
            if token.expires_at.is_some_and(|at| now >= at) {
                return Err(Problem::unauthenticated());
            }
            token.last_used_at.store(now, Ordering::Relaxed);
            Ok(Principal(Arc::clone(token)))
        }
        _ => Err(Problem::unauthenticated()),
    }
}

/// The token inside an `Authorization` header.
pub(crate) fn credential(header: &str) -> Option<&str> {
    let (scheme, secret) = header.split_once(' ')?;
    let known = scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token");
    let secret = secret.trim();
    (known && secret.len() <= 256 && secret.starts_with(PREFIX)).then_some(secret)
}

/// Compares in time that does not depend on where two hashes differ.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y))) == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_schemes_are_understood_and_nothing_else() {
        assert_eq!(credential("Bearer mqt_abc"), Some("mqt_abc"));
        assert_eq!(credential("token  mqt_abc "), Some("mqt_abc"));
        for bad in [
            "mqt_abc",
            "Basic mqt_abc",
            "Bearer abc",
            "Bearer",
            "",
            &format!("Bearer mqt_{}", "x".repeat(300)),
        ] {
            assert_eq!(credential(bad), None, "{bad}");
        }
    }

    #[test]
    fn admin_allows_everything_and_others_only_themselves() {
        assert!(Scopes::ALL.into_iter().all(|s| Scopes::of(&[Scope::Admin]).allows(s)));
        let reader = Scopes::of(&[Scope::Read]);
        assert!(reader.allows(Scope::Read) && !reader.allows(Scope::Predict) && !reader.allows(Scope::Admin));
        assert_eq!(
            Scopes::of(&[Scope::Publish, Scope::Read]).list(),
            [Scope::Read, Scope::Publish]
        );
    }

    #[test]
    fn secrets_are_long_prefixed_and_never_the_same() {
        let (a, b) = (new_secret().unwrap(), new_secret().unwrap());
        assert!(a.starts_with(PREFIX) && a.len() == PREFIX.len() + 32 && a != b);
        assert!(!same(&hash(&a), &hash(&b)) && same(&hash(&a), &hash(&a)));
    }
}
