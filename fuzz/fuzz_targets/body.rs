//! A body from a client: whatever the bytes, it is read or refused with a client's error.
#![no_main]

use gravity_api::auth::dto::{LoginBody, RegisterBody};
use gravity_api::extract::{fields, json};
use gravity_api::profile::dto::UpdateProfileBody;
use gravity_api::task::dto::{CreateTaskBody, UpdateTaskBody};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let value = match json::parse(bytes) {
        Ok(value) => value,
        Err(error) => return assert!(error.code().status().is_client_error()),
    };
    let refusals = [
        fields::read::<CreateTaskBody>(&value).err(),
        fields::read::<UpdateTaskBody>(&value).err(),
        fields::read::<UpdateProfileBody>(&value).err(),
        fields::read::<RegisterBody>(&value).err(),
        fields::read::<LoginBody>(&value).err(),
    ];
    for error in refusals.into_iter().flatten() {
        assert!(error.code().status().is_client_error());
    }
});
