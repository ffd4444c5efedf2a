//! Adapters of authentication: accounts in Postgres, sessions and limits in Redis or in this process, tokens, passwords.

mod address_blocks;
mod local_limiter;
mod memory_sessions;
mod password;
mod postgres;
mod redis_blocks;
mod redis_limiter;
mod redis_sessions;
#[cfg(test)]
mod session_contract;
mod token;

pub use address_blocks::{AddressBlocks, BlockSettings};
pub use local_limiter::LocalLimiter;
pub use memory_sessions::MemorySessions;
pub use password::{Argon2Hasher, HashSettings};
pub use postgres::PostgresAccounts;
pub use redis_blocks::share_blocks;
pub use redis_limiter::RedisLimiter;
pub use redis_sessions::RedisSessions;
pub use token::{
    ClaimRules, JwksSettings, KeyError, OutsideKeySource, OwnTokenSettings, OwnTokens, Verifier,
    VerifierSettings,
};
