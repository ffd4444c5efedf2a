//! Authentication, put together: own tokens, a provider's, sessions and limits in Redis or in this process.

use super::BuildError;
use super::stores::Stores;
use crate::config::{AuthConfig, Config};
use gravity_api::AuthCalls;
use gravity_domain::auth::{
    AddressBlocker, PasswordHasher, RateLimiter, RefreshTokens, Secret, SessionStore,
};
use gravity_domain::clock::{HybridClock, WallClock};
use gravity_infra::auth::{
    AddressBlocks, Argon2Hasher, BlockSettings, ClaimRules, HashSettings, JwksSettings, LocalLimiter,
    MemorySessions, OutsideKeySource, OwnTokenSettings, OwnTokens, PostgresAccounts, RedisLimiter,
    RedisSessions, Verifier, VerifierSettings, share_blocks,
};
use gravity_usecase::auth::{
    Authenticate, DeleteSession, Identities, IdentitySettings, ListSessions, Login, LoginQuotas, Logout,
    Refresh, Register, TokenIssuer,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// Keys counted in this process; beyond, the least used are forgotten.
const LIMITER_KEYS: u64 = 100_000;
const BLOCKED_ADDRESSES: u64 = 100_000;
/// In this process, when there is no Redis.
const SESSIONS: usize = 100_000;
const SESSIONS_PER_USER: usize = 50;
const LONGEST_WINDOW: Duration = Duration::from_secs(3_600);

/// Must run on the runtime that `stores` uses.
pub(super) fn build(
    config: &Config,
    stores: &Stores,
    clock: &Arc<HybridClock>,
    handle: &Handle,
    stop: &CancellationToken,
) -> Result<(AuthCalls, Arc<Identities>), BuildError> {
    let auth = &config.auth;
    let wall = Arc::clone(&stores.wall);
    let accounts = Arc::new(PostgresAccounts::new(
        stores.pool.clone(),
        Arc::clone(&stores.breaker),
    ));
    let identities = Arc::new(Identities::new(accounts.clone(), IdentitySettings::default()));
    let hasher: Arc<dyn PasswordHasher> = Arc::new(Argon2Hasher::new(
        HashSettings::new(auth.password_hash_parallelism),
        handle.clone(),
    ));
    let (sessions, limiter) = shared_state(stores);
    let tokens = auth.jwt_secret.as_ref().map(|secret| issuer(auth, secret, &wall));
    let calls = AuthCalls {
        authenticate: Arc::new(Authenticate {
            verifier: Arc::new(verifier(auth, Arc::clone(&wall), handle)?),
            identities: Arc::clone(&identities),
            clock: Arc::clone(clock),
            auto_provision: auth.auto_provision,
        }),
        register: Register {
            accounts: accounts.clone(),
            hasher: Arc::clone(&hasher),
            limiter: Arc::clone(&limiter),
            clock: Arc::clone(clock),
            quota: Register::per_hour(auth.registrations_per_hour),
            enabled: tokens.is_some(),
        },
        login: Login {
            accounts,
            sessions: Arc::clone(&sessions),
            hasher,
            limiter,
            tokens: tokens.clone(),
            clock: Arc::clone(&wall),
            quotas: LoginQuotas::per_minute(auth.login_attempts_per_minute),
        },
        refresh: Refresh {
            sessions: Arc::clone(&sessions),
            identities: Arc::clone(&identities),
            tokens: tokens.clone(),
            clock: wall,
        },
        logout: Logout {
            sessions: Arc::clone(&sessions),
            tokens,
        },
        list_sessions: ListSessions {
            sessions: Arc::clone(&sessions),
        },
        delete_session: DeleteSession { sessions },
        blocker: blocker(auth, stores, handle, stop),
    };
    Ok((calls, identities))
}

fn shared_state(stores: &Stores) -> (Arc<dyn SessionStore>, Arc<dyn RateLimiter>) {
    let local = LocalLimiter::new(LIMITER_KEYS, LONGEST_WINDOW);
    match &stores.redis {
        Some(redis) => (
            Arc::new(RedisSessions::new(redis.clone(), SESSIONS_PER_USER)),
            Arc::new(RedisLimiter::new(redis.clone(), local)),
        ),
        None => (
            Arc::new(MemorySessions::new(
                SESSIONS,
                SESSIONS_PER_USER,
                Arc::clone(&stores.wall),
            )),
            Arc::new(local),
        ),
    }
}

fn issuer(auth: &AuthConfig, secret: &Secret, wall: &Arc<dyn WallClock>) -> Arc<TokenIssuer> {
    let own = OwnTokenSettings {
        secret: secret.clone(),
        issuer: auth.issuer.clone(),
        audience: auth.audience.clone(),
        access_ttl: auth.access_ttl,
    };
    Arc::new(TokenIssuer {
        signer: Arc::new(OwnTokens::new(own, Arc::clone(wall))),
        refresh: RefreshTokens::new(secret),
        session_ttl: auth.refresh_ttl,
        reuse_grace: auth.refresh_reuse,
    })
}

pub(super) fn verifier(
    auth: &AuthConfig,
    wall: Arc<dyn WallClock>,
    handle: &Handle,
) -> Result<Verifier, BuildError> {
    let outside = match (&auth.jwks_url, &auth.public_key_file) {
        (Some(url), _) => Some(OutsideKeySource::Jwks(JwksSettings::new(url))),
        (None, Some(file)) => Some(OutsideKeySource::Pem(std::fs::read(file).map_err(|source| {
            BuildError::File {
                file: file.display().to_string(),
                source,
            }
        })?)),
        (None, None) => None,
    };
    let settings = VerifierSettings {
        secret: auth.jwt_secret.clone(),
        outside,
        rules: ClaimRules {
            issuer: auth.issuer.clone(),
            audience: auth.audience.clone(),
            leeway: auth.leeway,
            role_claim: auth.role_claim.clone(),
            admin_values: auth.admin_values.clone(),
        },
    };
    Ok(Verifier::new(settings, wall, handle.clone())?)
}

fn blocker(
    auth: &AuthConfig,
    stores: &Stores,
    handle: &Handle,
    stop: &CancellationToken,
) -> Arc<dyn AddressBlocker> {
    let settings = BlockSettings {
        threshold: auth.ip_block_threshold,
        window: auth.ip_block_window,
        block: auth.ip_block,
        capacity: BLOCKED_ADDRESSES,
    };
    let Some(redis) = stores.redis.clone() else {
        return Arc::new(AddressBlocks::new(settings));
    };
    let (blocks, announced) = AddressBlocks::announcing(settings);
    let blocks = Arc::new(blocks);
    let wall = Arc::clone(&stores.wall);
    handle.spawn(share_blocks(
        Arc::clone(&blocks),
        announced,
        redis,
        wall,
        stop.clone(),
    ));
    blocks
}
