//! How times and stamps travel to Postgres and back.

use bytes::{BufMut, BytesMut};
use gravity_domain::clock::{Hlc, Timestamp};
use std::error::Error;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

/// Microseconds from 1970 to 2000, from where Postgres counts.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// A `timestamptz`, cut to milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At(pub(crate) Timestamp);

impl ToSql for At {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i64(self.0.millis() * 1_000 - EPOCH_MICROS);
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for At {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let micros = i64::from_be_bytes(raw.try_into()?);
        let millis = micros.saturating_add(EPOCH_MICROS).div_euclid(1_000);
        Ok(Self(Timestamp::from_millis(millis)))
    }

    accepts!(TIMESTAMPTZ);
}

/// A stamp as sixteen bytes that compare as stamps do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp(pub(crate) Hlc);

impl ToSql for Stamp {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_slice(&self.0.to_bytes());
        Ok(IsNull::No)
    }

    accepts!(BYTEA);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for Stamp {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(Hlc::from_bytes(raw.try_into()?)))
    }

    accepts!(BYTEA);
}
