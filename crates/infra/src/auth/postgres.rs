//! Accounts in Postgres: `users` and `credentials`.

use crate::postgres::values::{At, Stamp};
use crate::postgres::{Gather, Pool, QueryError};
use async_trait::async_trait;
use gravity_domain::auth::{
    AccountStore, Credentials, ExternalUser, Identity, NewAccount, RegisterError, Role, UserStatus, Username,
};
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use gravity_domain::profile::Name;
use gravity_domain::sync::ports::Breaker;
use std::collections::HashMap;
use std::sync::Arc;
use tokio_postgres::Row;
use uuid::Uuid;

/// One statement, hence one transaction.
const ACCOUNT_INSERT: &str = "
    WITH made AS (
        INSERT INTO users (id, username, name, role, status, created_at, updated_at, version, name_stamp, avatar_url_stamp)
        VALUES ($1, $2, $3, 'user', 'active', $4, $4, 1, $5, $5)
        RETURNING id
    )
    INSERT INTO credentials (user_id, password_hash, email, updated_at)
    SELECT id, $6, $7, $4 FROM made";

const CREDENTIALS_FIND: &str = "
    SELECT users.id, credentials.password_hash, users.role, users.status
    FROM users JOIN credentials ON credentials.user_id = users.id
    WHERE users.username = $1";

const IDENTITY_FIND: &str = "SELECT role, status, id FROM users WHERE id = ANY ($1)";
/// Users who are looked up together.
const IDENTITIES_TOGETHER: usize = 256;

/// Gives no row when the username is another's.
const USER_PROVISION: &str = "
    WITH made AS (
        INSERT INTO users (id, username, name, role, status, created_at, updated_at, version, name_stamp, avatar_url_stamp)
        VALUES ($1, $2, $3, 'user', 'active', $4, $4, 1, $5, $5)
        ON CONFLICT DO NOTHING
        RETURNING role, status
    )
    SELECT role, status FROM made
    UNION ALL
    SELECT role, status FROM users WHERE id = $1";

/// Usernames tried for a provider's user: the preferred one, one derived from the id, then random ones.
const NAME_TRIES: usize = 4;

/// The store.
pub struct PostgresAccounts {
    pool: Pool,
    breaker: Arc<dyn Breaker>,
    identities: Gather<UserId, Result<Option<Identity>, StoreError>>,
}

impl std::fmt::Debug for PostgresAccounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresAccounts").finish_non_exhaustive()
    }
}

async fn find_identities(pool: &Pool, users: &[UserId]) -> Vec<Result<Option<Identity>, StoreError>> {
    let ids: Vec<Uuid> = users.iter().map(|user| user.0).collect();
    let rows = pool.query("identity_find", IDENTITY_FIND, &[&ids]).await;
    let rows = rows.map_err(StoreError::from);
    let by_id: Result<HashMap<Uuid, &Row>, &StoreError> = match &rows {
        Ok(rows) => Ok(rows
            .iter()
            .filter_map(|row| Some((row.try_get(2).ok()?, row)))
            .collect()),
        Err(error) => Err(error),
    };
    // A row that cannot be read concerns its user only.
    let of = |user: &UserId| match &by_id {
        Ok(by_id) => {
            let row = by_id.get(&user.0);
            Ok(row.map(|row| identity(row, 0)).transpose()?)
        }
        Err(error) => Err(error.shared()),
    };
    users.iter().map(of).collect()
}

impl PostgresAccounts {
    /// A store over `pool`. It asks `breaker` (the monitor of Postgres) first, and tells it of every failure.
    pub fn new(pool: Pool, breaker: Arc<dyn Breaker>) -> Self {
        let for_identities = pool.clone();
        let identities = Gather::new(pool.handle(), IDENTITIES_TOGETHER, move |users: Vec<UserId>| {
            let pool = for_identities.clone();
            async move { find_identities(&pool, &users).await }
        });
        Self {
            pool,
            breaker,
            identities,
        }
    }

    fn may_read(&self) -> Result<(), StoreError> {
        if self.breaker.allows_reads() {
            return Ok(());
        }
        Err(StoreError::unavailable("breaker_open"))
    }

    fn may_write(&self) -> Result<(), StoreError> {
        if self.breaker.allows_writes() {
            return Ok(());
        }
        Err(StoreError::unavailable("breaker_open"))
    }

    fn failed(&self, error: QueryError) -> StoreError {
        let error = StoreError::from(error);
        self.breaker.failed(&error);
        error
    }

    async fn try_provision(
        &self,
        user: &ExternalUser,
        username: &Username,
    ) -> Result<Option<Identity>, QueryError> {
        let row = self
            .pool
            .query_opt(
                "user_provision",
                USER_PROVISION,
                &[
                    &user.id.0,
                    &username.as_str(),
                    &user.name.as_ref().map(Name::as_str),
                    &At(user.stamp.timestamp()),
                    &Stamp(user.stamp),
                ],
            )
            .await?;
        row.map(|row| identity(&row, 0)).transpose()
    }
}

#[async_trait]
impl AccountStore for PostgresAccounts {
    async fn register(&self, account: &NewAccount) -> Result<(), RegisterError> {
        self.may_write()?;
        let inserted = self
            .pool
            .execute(
                "account_insert",
                ACCOUNT_INSERT,
                &[
                    &account.id.0,
                    &account.username.as_str(),
                    &account.name.as_ref().map(Name::as_str),
                    &At(account.stamp.timestamp()),
                    &Stamp(account.stamp),
                    &account.password_hash,
                    &account.email.as_ref().map(|email| email.as_str()),
                ],
            )
            .await;
        match inserted {
            Ok(_) => Ok(()),
            Err(error) if error.is_duplicate_of("users_username_key") => Err(RegisterError::UsernameTaken),
            Err(error) => Err(self.failed(error).into()),
        }
    }

    async fn credentials(&self, username: &Username) -> Result<Option<Credentials>, StoreError> {
        self.may_read()?;
        self.pool
            .query_opt("credentials_find", CREDENTIALS_FIND, &[&username.as_str()])
            .await
            .and_then(|row| row.map(|row| credentials(&row)).transpose())
            .map_err(|error| self.failed(error))
    }

    async fn identity(&self, user: UserId) -> Result<Option<Identity>, StoreError> {
        self.may_read()?;
        let found = self.pool.gathered(&self.identities, user).await;
        found.inspect_err(|error| self.breaker.failed(error))
    }

    async fn provision(&self, user: &ExternalUser) -> Result<Identity, StoreError> {
        self.may_write()?;
        let preferred = user.username.clone();
        let names = preferred
            .into_iter()
            .chain(derived_username(user.id.0))
            .chain(std::iter::repeat_with(|| derived_username(Uuid::new_v4())).flatten())
            .take(NAME_TRIES);
        for username in names {
            match self.try_provision(user, &username).await {
                Ok(Some(identity)) => return Ok(identity),
                Ok(None) => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Err(StoreError::Busy {
            reason: "username",
            source: None,
        })
    }
}

/// `u_` and the last twelve hexadecimal digits of `id`.
fn derived_username(id: Uuid) -> Option<Username> {
    let digits = id.simple().to_string();
    Username::parse(&format!("u_{}", &digits[20..])).ok()
}

fn credentials(row: &Row) -> Result<Credentials, QueryError> {
    let Identity { role, status } = identity(row, 2)?;
    Ok(Credentials {
        user_id: UserId(row.try_get(0)?),
        password_hash: row.try_get(1)?,
        role,
        status,
    })
}

/// The identity whose first column is at `at`.
fn identity(row: &Row, at: usize) -> Result<Identity, QueryError> {
    Ok(Identity {
        role: Role::parse(row.try_get(at)?).ok_or(QueryError::Row("users.role"))?,
        status: UserStatus::parse(row.try_get(at + 1)?).ok_or(QueryError::Row("users.status"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::session_contract::Closed;
    use crate::postgres::{PostgresSettings, migrate, schema_digest};
    use gravity_domain::auth::Email;
    use gravity_domain::clock::{Hlc, NodeId};
    use gravity_domain::sync::ports::MockBreaker;
    use gravity_test_support::services::databases::{DatabaseError, TestDatabase};
    use gravity_test_support::services::shared;
    use tokio::runtime::Handle;

    async fn migrated(url: String) -> Result<(), DatabaseError> {
        migrate(&PostgresSettings::from_url(url), &Handle::current()).await?;
        Ok(())
    }

    async fn database() -> (TestDatabase, PostgresAccounts) {
        let template = format!("infra_{:016x}", schema_digest());
        let database = TestDatabase::create(shared::postgres(), &template, migrated)
            .await
            .unwrap();
        let settings = PostgresSettings::from_url(database.url());
        let pool = Pool::new(&settings, Handle::current()).unwrap();
        (database, PostgresAccounts::new(pool, Arc::new(Closed)))
    }

    fn stamp() -> Hlc {
        Hlc {
            wall_ms: 1_800_000_000_123,
            counter: 1,
            node: NodeId(7),
        }
    }

    fn username(text: &str) -> Username {
        Username::parse(text).unwrap()
    }

    fn account(name: &str) -> NewAccount {
        NewAccount {
            id: UserId::random(),
            username: username(name),
            name: Some(Name::parse("Alice 'x'").unwrap()),
            email: Some(Email::parse("alice@example.org").unwrap()),
            password_hash: "$argon2id$…".into(),
            stamp: stamp(),
        }
    }

    fn external(id: UserId, name: Option<&str>) -> ExternalUser {
        ExternalUser {
            id,
            username: name.map(username),
            name: None,
            stamp: stamp(),
        }
    }

    const USER: Identity = Identity {
        role: Role::User,
        status: UserStatus::Active,
    };

    #[tokio::test]
    async fn a_registered_account_is_found_with_its_credentials() {
        let (database, accounts) = database().await;
        let alice = account("alice");
        accounts.register(&alice).await.unwrap();
        let found = accounts.credentials(&alice.username).await.unwrap().unwrap();
        assert_eq!(
            (found.user_id, found.password_hash),
            (alice.id, alice.password_hash)
        );
        assert_eq!((found.role, found.status), (Role::User, UserStatus::Active));
        assert_eq!(accounts.identity(alice.id).await.unwrap(), Some(USER));
        assert_eq!(accounts.identity(UserId::random()).await.unwrap(), None);
        assert!(accounts.credentials(&username("bob")).await.unwrap().is_none());

        let client = database.connect().await.unwrap();
        let row = client
            .query_one("SELECT created_at, name_stamp, version FROM users", &[])
            .await
            .unwrap();
        assert_eq!(row.get::<_, At>(0).0, stamp().timestamp());
        assert_eq!(row.get::<_, Stamp>(1).0, stamp());
        assert_eq!(row.get::<_, i64>(2), 1);
    }

    #[tokio::test]
    async fn a_taken_username_leaves_nothing_of_the_second_account() {
        let (_database, accounts) = database().await;
        accounts.register(&account("alice")).await.unwrap();
        let second = account("alice");
        let refused = accounts.register(&second).await;
        assert!(matches!(refused, Err(RegisterError::UsernameTaken)));
        assert_eq!(accounts.identity(second.id).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_suspension_shows_in_identity_and_credentials() {
        let (database, accounts) = database().await;
        let alice = account("alice");
        accounts.register(&alice).await.unwrap();
        let client = database.connect().await.unwrap();
        client
            .batch_execute("UPDATE users SET status = 'suspended', role = 'admin'")
            .await
            .unwrap();
        let suspended = Identity {
            role: Role::Admin,
            status: UserStatus::Suspended,
        };
        assert_eq!(accounts.identity(alice.id).await.unwrap(), Some(suspended));
        let found = accounts.credentials(&alice.username).await.unwrap().unwrap();
        assert_eq!(found.status, UserStatus::Suspended);
    }

    #[tokio::test]
    async fn a_providers_user_is_created_once_and_a_taken_name_is_replaced() {
        let (database, accounts) = database().await;
        accounts.register(&account("alice")).await.unwrap();
        let id = UserId::random();
        for _ in 0..2 {
            let identity = accounts.provision(&external(id, Some("alice"))).await.unwrap();
            assert_eq!(identity, USER);
        }
        let preferred = UserId::random();
        accounts
            .provision(&external(preferred, Some("bob")))
            .await
            .unwrap();
        accounts
            .provision(&external(UserId::random(), None))
            .await
            .unwrap();
        let client = database.connect().await.unwrap();
        let name = async |id: UserId| -> String {
            let row = client
                .query_one("SELECT username FROM users WHERE id = $1", &[&id.0])
                .await;
            row.unwrap().get(0)
        };
        let digits = id.0.simple().to_string();
        assert_eq!(name(id).await, format!("u_{}", &digits[20..]));
        assert_eq!(name(preferred).await, "bob");
        assert!(accounts.credentials(&username("bob")).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn many_first_requests_of_one_provider_user_make_one_row() {
        let (database, accounts) = database().await;
        let id = UserId::random();
        let user = external(id, Some("carol"));
        let all = (0..12).map(|_| accounts.provision(&user));
        for identity in futures_util::future::join_all(all).await {
            assert_eq!(identity.unwrap(), USER);
        }
        let client = database.connect().await.unwrap();
        let count: i64 = client
            .query_one("SELECT count(*) FROM users", &[])
            .await
            .unwrap()
            .get(0);
        assert_eq!(count, 1);
    }

    #[tokio::test]
    async fn an_open_breaker_is_not_asked_twice_and_an_outage_is_told() {
        let mut breaker = MockBreaker::new();
        breaker.expect_allows_reads().times(1).return_const(true);
        breaker
            .expect_failed()
            .withf(StoreError::is_outage)
            .times(1)
            .return_const(());
        breaker.expect_allows_reads().return_const(false);
        let settings = PostgresSettings::from_url("postgres://nobody@127.0.0.1:1/none");
        let pool = Pool::new(&settings, Handle::current()).unwrap();
        let accounts = PostgresAccounts::new(pool, Arc::new(breaker));
        for _ in 0..2 {
            let failed = accounts.identity(UserId::random()).await;
            assert!(failed.is_err_and(|error| error.is_outage()));
        }
    }
}
