//! The use cases of the features, over the stores.

use super::BuildError;
use super::chat::Around;
use super::stores::Stores;
use crate::config::Config;
use gravity_api::{AuthCalls, ChatCalls, ProfileCalls, StreamCalls, SyncCalls, TaskCalls};
use gravity_domain::auth::RateLimiter;
use gravity_domain::clock::HybridClock;
use gravity_domain::profile::Profile;
use gravity_domain::stream::ActionReceipt;
use gravity_domain::sync::ports::{Breaker, EntityCache, EntityStore, WriteBuffer, WritePorts};
use gravity_domain::task::{Task, TaskCache, TaskStore};
use gravity_infra::profile::PostgresProfiles;
use gravity_infra::stream::{AllowList, Receipts};
use gravity_infra::sync::PostgresOperations;
use gravity_infra::task::PostgresTasks;
use gravity_usecase::auth::Identities;
use gravity_usecase::profile::{GetProfile, ProfileLoader, UpdateProfile};
use gravity_usecase::stream::{
    ActOnItems, GetChanges, GetItem, IngestItems, ListMessages, ListStream, RemoveItems, StreamJudge,
};
use gravity_usecase::sync::{
    DiscardDeadLetter, EntityReader, GetOperation, ListDeadLetters, Loader, RetryDeadLetter, Warmer,
    WriteSettings, Writer,
};
use gravity_usecase::task::{CreateTask, DeleteTask, GetTask, ListTasks, TaskLoader, UpdateTask};
use std::sync::Arc;
use tokio::runtime::Handle;

/// The use cases of the features.
pub(super) struct Calls {
    pub(super) profile: ProfileCalls,
    pub(super) task: TaskCalls,
    pub(super) stream: StreamCalls,
    pub(super) chat: ChatCalls,
    pub(super) sync: SyncCalls,
}

impl Calls {
    pub(super) fn build(
        config: &Config,
        stores: &Stores,
        clock: &Arc<HybridClock>,
        (auth, identities): (&AuthCalls, &Arc<Identities>),
        handle: &Handle,
    ) -> Result<Self, BuildError> {
        let limiter = &auth.login.limiter;
        let buffer: Arc<dyn WriteBuffer> = Arc::new(stores.buffer.clone());
        let ports = WritePorts {
            store: Arc::new(PostgresOperations::new(stores.pool.clone())),
            breaker: Arc::clone(&stores.breaker),
            buffer: Arc::clone(&buffer),
            known: Arc::new(stores.known()),
        };
        let settings = WriteSettings {
            deadline: config.database.write_deadline,
        };
        let tasks = Arc::new(PostgresTasks::new(stores.pool.clone()));
        let profiles = Arc::new(PostgresProfiles::new(stores.pool.clone()));
        let known_tasks: Arc<dyn TaskCache> = stores.known_tasks.clone();
        let known_profiles: Arc<dyn EntityCache<Profile>> = stores.known_profiles.clone();
        let loaders: Vec<Arc<dyn Loader>> = vec![
            Arc::new(ProfileLoader::new(profiles.clone(), Arc::clone(&known_profiles))),
            Arc::new(TaskLoader::new(tasks.clone(), Arc::clone(&known_tasks))),
        ];
        let feature = Feature {
            writer: Arc::new(Writer::new(ports.clone(), Arc::clone(clock), settings)),
            warmer: Arc::new(Warmer::new(loaders, Arc::clone(&stores.breaker))),
            breaker: Arc::clone(&stores.breaker),
            buffer,
        };
        let around = Around {
            config,
            stores,
            auth,
            identities,
            handle,
        };
        let letters = Arc::new(stores.buffer.clone());
        Ok(Self {
            profile: feature.profiles(profiles, known_profiles),
            task: feature.tasks(tasks, known_tasks),
            stream: feature.stream(config, stores, clock, limiter),
            chat: feature.chat(&around)?,
            sync: SyncCalls {
                operation: GetOperation::new(ports),
                list_dead_letters: ListDeadLetters::new(letters.clone()),
                retry_dead_letter: RetryDeadLetter::new(letters.clone()),
                discard_dead_letter: DiscardDeadLetter::new(letters),
            },
        })
    }
}

/// What the features share.
pub(super) struct Feature {
    pub(super) writer: Arc<Writer>,
    warmer: Arc<Warmer>,
    pub(super) breaker: Arc<dyn Breaker>,
    pub(super) buffer: Arc<dyn WriteBuffer>,
}

impl Feature {
    fn profiles(
        &self,
        store: Arc<dyn EntityStore<Profile>>,
        cache: Arc<dyn EntityCache<Profile>>,
    ) -> ProfileCalls {
        let reader = Arc::new(EntityReader::new(
            store,
            cache,
            Arc::clone(&self.breaker),
            Arc::clone(&self.buffer),
        ));
        ProfileCalls {
            get: GetProfile::new(Arc::clone(&reader)),
            update: UpdateProfile::new(Arc::clone(&self.writer), reader),
        }
    }

    fn tasks(&self, store: Arc<dyn TaskStore>, cache: Arc<dyn TaskCache>) -> TaskCalls {
        let (writer, warmer) = (&self.writer, &self.warmer);
        let reader: Arc<EntityReader<Task>> = Arc::new(EntityReader::new(
            store.clone(),
            cache.clone(),
            Arc::clone(&self.breaker),
            Arc::clone(&self.buffer),
        ));
        TaskCalls {
            create: CreateTask::new(writer.clone(), reader.clone(), warmer.clone()),
            update: UpdateTask::new(writer.clone(), reader.clone(), warmer.clone()),
            delete: DeleteTask::new(writer.clone(), reader.clone(), warmer.clone()),
            get: GetTask::new(reader, warmer.clone()),
            list: ListTasks::new(
                store,
                cache,
                Arc::clone(&self.breaker),
                Arc::clone(&self.buffer),
                warmer.clone(),
            ),
        }
    }

    fn stream(
        &self,
        config: &Config,
        stores: &Stores,
        clock: &Arc<HybridClock>,
        limiter: &Arc<dyn RateLimiter>,
    ) -> StreamCalls {
        let (store, cache) = (
            || Arc::clone(&stores.stream),
            || Arc::clone(&stores.cached_stream),
        );
        let (breaker, buffer) = (|| Arc::clone(&self.breaker), || Arc::clone(&self.buffer));
        let receipts = Arc::new(Receipts::new(cache()));
        let judge = StreamJudge::new(cache(), breaker(), Arc::clone(clock));
        let reader = EntityReader::<ActionReceipt>::new(receipts.clone(), receipts, breaker(), buffer())
            .judged_by(Arc::new(judge));
        let writer = Arc::clone(&self.writer);
        StreamCalls {
            list: ListStream::new(cache(), breaker(), buffer()),
            get: GetItem::new(cache(), buffer()),
            messages: ListMessages::new(store(), cache(), breaker()),
            changes: GetChanges::new(store(), cache(), breaker(), buffer()),
            act: ActOnItems::new(writer, Arc::new(reader), store(), cache(), breaker(), buffer()),
            ingest: IngestItems::new(store(), cache(), breaker(), Arc::clone(clock)),
            remove: RemoveItems::new(store(), cache(), breaker()),
            html: Arc::new(AllowList::new()),
            limiter: Arc::clone(limiter),
            ingest_quota: StreamCalls::per_minute(config.stream.ingest_calls_per_minute),
        }
    }
}
