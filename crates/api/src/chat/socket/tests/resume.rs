use super::*;

fn since(offset: u64) -> Wish {
    told(offset, 0)
}

fn told(offset: u64, stream: u64) -> Wish {
    Wish::Since(EventCursor {
        epoch: 0,
        offset,
        stream,
    })
}

/// Versions of the stream that were told, each with its cursor.
fn streams(frames: &[Value]) -> Vec<(u64, Option<&str>)> {
    let of = |frame: &'_ &Value| frame["type"] == "stream.changed";
    frames
        .iter()
        .filter(of)
        .map(|frame| {
            (
                frame["payload"]["version"].as_u64().unwrap(),
                frame["cursor"].as_str(),
            )
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_begins_hears_what_comes_from_now_on() {
    let world = World::new();
    world.logs.number(world.user, 1);
    let socket = world.socket(Wish::Now).await;
    let ready = &frames(&socket)[0];
    assert_eq!(
        ready["payload"]["resume"],
        json!({"status": "none", "replaying": 0})
    );
    assert_eq!(ready["payload"]["userId"], json!(world.user));
    assert_eq!(ready["cursor"], "0.1.0");
    world.commit(2);
    assert_eq!(numbers(&frames(&socket)), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_resumes_hears_first_what_it_missed_and_then_what_came_meanwhile() {
    let world = World::new();
    for number in 1..=3 {
        world.logs.number(world.user, number);
    }
    let other = world.begun().await;
    let socket = world.attached();
    world.commit(4);
    world.commit(5);
    assert!(frames(&socket).is_empty(), "nothing before `ready`");
    begin::begin(&world.hub, &socket, world.user, since(1), None).await;
    world.commit(6);
    let heard = frames(&socket);
    assert_eq!(
        heard[0]["payload"]["resume"],
        json!({"status": "ok", "replaying": 4})
    );
    assert_eq!(heard[0]["cursor"], "0.1.0", "not past what is replayed");
    assert_eq!(numbers(&heard), [2, 3, 4, 5, 6]);
    assert_eq!(numbers(&frames(&other)), [4, 5, 6]);
}

#[tokio::test(start_paused = true)]
async fn a_replay_is_not_too_much_for_a_slow_client() {
    let world = World::new();
    for number in 1..=1_000 {
        world.logs.number(world.user, number);
    }
    let socket = world.socket(since(0)).await;
    world.commit(1_001);
    assert_eq!(numbers(&frames(&socket)).len(), 1_001);
}

#[tokio::test(start_paused = true)]
async fn too_much_another_epoch_a_place_beyond_the_end_and_nonsense_are_a_reset() {
    let world = World::new();
    for number in 1..=1_001 {
        world.logs.number(world.user, number);
    }
    let other_epoch = EventCursor {
        epoch: 3,
        offset: 1_000,
        stream: 0,
    };
    for wish in [since(0), since(2_000), Wish::Since(other_epoch), Wish::Nonsense] {
        let socket = world.socket(wish).await;
        let heard = frames(&socket);
        assert_eq!(types(&heard), ["ready"], "never a part");
        assert_eq!(heard[0]["payload"]["resume"]["status"], "reset", "{wish:?}");
        assert_eq!(heard[0]["cursor"], "0.3e9.0");
    }
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_cannot_be_read_now_follows_as_soon_as_it_can() {
    let world = World::new();
    world.logs.number(world.user, 1);
    world.logs.is_away.store(true, SeqCst);
    let resuming = world.socket(since(0)).await;
    let fresh = world.socket(Wish::Now).await;
    let ready = frames(&resuming);
    assert_eq!(ready[0]["payload"]["resume"]["status"], "deferred");
    assert_eq!(ready[0]["cursor"], "0.0.0");
    assert_eq!(frames(&fresh)[0]["payload"]["resume"]["status"], "none");
    world.logs.number(world.user, 2);
    world.logs.is_away.store(false, SeqCst);
    let mut heard = Vec::new();
    until(|| {
        heard.extend(frames(&resuming));
        numbers(&heard) == [1, 2]
    })
    .await;
    let told = frames(&fresh);
    assert_eq!(types(&told), ["resync"]);
    assert_eq!(told[0]["cursor"], "0.2.0");
    world.commit(3);
    assert_eq!(numbers(&frames(&resuming)), [3]);
    assert_eq!(numbers(&frames(&fresh)), [3]);
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_was_put_off_and_has_become_impossible_is_a_resync() {
    let world = World::new();
    world.logs.is_away.store(true, SeqCst);
    let socket = world.socket(since(7)).await;
    frames(&socket);
    world.logs.is_away.store(false, SeqCst);
    let mut heard = Vec::new();
    until(|| {
        heard.extend(frames(&socket));
        !heard.is_empty()
    })
    .await;
    assert_eq!(types(&heard), ["resync"]);
    assert_eq!(heard[0]["payload"]["reason"], "reset");
    assert_eq!(heard[0]["cursor"], "0.0.0");
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_the_log_is_read_is_heard_after_the_replay() {
    let world = World::new();
    world.logs.number(world.user, 1);
    let other = world.socket(since(0)).await;
    world.logs.delay.store(50, SeqCst);
    let socket = world.attached();
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        world.commit(2);
        assert!(frames(&socket).is_empty());
    };
    tokio::join!(
        begin::begin(&world.hub, &socket, world.user, since(0), None),
        meanwhile
    );
    let heard = frames(&socket);
    assert_eq!(heard[0]["payload"]["resume"]["replaying"], 1);
    assert_eq!(numbers(&heard), [1, 2]);
    assert_eq!(numbers(&frames(&other)), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn sockets_that_begin_together_hear_what_came_between_their_reads() {
    let world = World::new();
    world.logs.number(world.user, 1);
    let (slow, quick) = (world.attached(), world.attached());
    world.logs.delay.store(50, SeqCst);
    let begin_quick = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        world.commit(2);
        world.logs.delay.store(5, SeqCst);
        begin::begin(&world.hub, &quick, world.user, since(0), None).await;
        world.commit(3);
    };
    tokio::join!(
        begin::begin(&world.hub, &slow, world.user, since(0), None),
        begin_quick
    );
    world.commit(4);
    assert_eq!(numbers(&frames(&quick)), [1, 2, 3, 4]);
    let heard = frames(&slow);
    assert_eq!(numbers(&heard), [1, 2, 3, 4]);
    assert_eq!(types(&heard).iter().filter(|kind| **kind == "ready").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_was_put_off_comes_once_however_often_it_is_tried() {
    let world = World::new();
    world.logs.number(world.user, 1);
    world.logs.is_away.store(true, SeqCst);
    let mut sockets = Vec::new();
    for _ in 0..9 {
        let socket = world.socket(since(0)).await;
        assert_eq!(types(&frames(&socket)), ["ready"]);
        sockets.push((socket, Vec::new()));
    }
    world.logs.is_away.store(false, SeqCst);
    world.logs.delay.store(50, SeqCst);
    let again = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        world.commit(2);
        world.logs.delay.store(5, SeqCst);
        begin::settle(&world.hub).await;
    };
    tokio::join!(begin::settle(&world.hub), again);
    world.commit(3);
    until(|| {
        for (socket, heard) in &mut sockets {
            heard.extend(numbers(&frames(socket)));
        }
        sockets.iter().all(|(_, heard)| heard.len() >= 3)
    })
    .await;
    for (_, heard) in sockets {
        assert_eq!(heard, [1, 2, 3]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_resume_that_comes_while_an_earlier_wish_is_served_is_the_one_that_counts() {
    let world = World::new();
    world.logs.number(world.user, 1);
    world.begun().await;
    let socket = world.attached();
    world.logs.delay.store(50, SeqCst);
    let late = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        begin::begin(&world.hub, &socket, world.user, since(0), None).await;
    };
    tokio::join!(
        begin::begin(&world.hub, &socket, world.user, Wish::Nonsense, None),
        late
    );
    let heard = frames(&socket);
    assert_eq!(types(&heard), ["ready", "notification.new"]);
    assert_eq!(heard[0]["payload"]["resume"]["status"], "ok");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_went_back_makes_clients_begin_anew() {
    let world = World::new();
    world.logs.stream.store(7, SeqCst);
    let live = world.begun().await;
    world.logs.stream.store(3, SeqCst);
    let back = world.socket(told(0, 7)).await;
    let ready = &frames(&back)[0];
    assert_eq!(ready["payload"]["resume"]["status"], "reset");
    until(|| closes(&frames(&live)) == [4102]).await;
}

#[tokio::test(start_paused = true)]
async fn what_one_socket_is_replayed_the_others_of_the_user_hear_too() {
    let world = World::new();
    let other = world.begun().await;
    world.logs.number(world.user, 1);
    world.socket(since(0)).await;
    let mut heard = Vec::new();
    until(|| {
        heard.extend(numbers(&frames(&other)));
        heard == [1]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_stream_is_told_once_with_a_cursor_that_leads_past_it() {
    let world = World::new();
    world.logs.stream.store(4, SeqCst);
    world.logs.number(world.user, 1);
    let socket = world.socket(Wish::Now).await;
    assert_eq!(frames(&socket)[0]["cursor"], "0.1.4");
    world.change_stream();
    world.tell_stream(5);
    world.tell_stream(3);
    world.commit(2);
    let heard = frames(&socket);
    assert_eq!(types(&heard), ["stream.changed", "notification.new"]);
    assert_eq!(streams(&heard), [(5, Some("0.1.5"))]);
    assert_eq!(heard[1]["cursor"], "0.2.5");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_away_is_told_of_the_stream_after_what_else_it_missed() {
    let world = World::new();
    let other = world.begun().await;
    world.logs.number(world.user, 1);
    world.logs.stream.store(7, SeqCst);
    let socket = world.socket(told(0, 6)).await;
    let heard = frames(&socket);
    assert_eq!(types(&heard), ["ready", "notification.new", "stream.changed"]);
    assert_eq!(heard[0]["payload"]["resume"]["replaying"], 2);
    assert_eq!(heard[0]["cursor"], "0.0.6", "not past what is replayed");
    assert_eq!(heard[1]["cursor"], "0.1.6");
    assert_eq!(streams(&heard), [(7, Some("0.1.7"))]);
    assert_eq!(
        streams(&frames(&other)),
        [(7, Some("0.0.7"))],
        "whose hint was lost"
    );

    let again = world.socket(told(1, 7)).await;
    let heard = frames(&again);
    assert_eq!(types(&heard), ["ready"], "nothing was missed");
    assert_eq!(heard[0]["cursor"], "0.1.7");
    assert_eq!(heard[0]["payload"]["resume"]["replaying"], 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_changes_while_the_log_is_read_is_told_when_the_client_follows() {
    let world = World::new();
    world.begun().await;
    let socket = world.attached();
    world.logs.delay.store(50, SeqCst);
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        world.commit(1);
        world.change_stream();
        world.commit(2);
        assert!(frames(&socket).is_empty());
    };
    tokio::join!(
        begin::begin(&world.hub, &socket, world.user, since(0), None),
        meanwhile
    );
    let heard = frames(&socket);
    assert_eq!(types(&heard)[..2], ["ready", "stream.changed"]);
    assert_eq!(streams(&heard), [(1, Some("0.0.1"))]);
    assert_eq!(
        (&heard[2]["cursor"], &heard[3]["cursor"]),
        (&json!("0.1.1"), &json!("0.2.1"))
    );
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_replayed_to_hears_of_the_stream_without_a_cursor_and_again_with_the_replay() {
    let world = World::new();
    world.logs.is_away.store(true, SeqCst);
    let socket = world.socket(since(0)).await;
    world.change_stream();
    let heard = frames(&socket);
    assert_eq!(types(&heard), ["ready", "stream.changed"]);
    assert_eq!(streams(&heard), [(1, None)]);
    world.logs.is_away.store(false, SeqCst);
    let mut heard = Vec::new();
    until(|| {
        heard.extend(frames(&socket));
        !heard.is_empty()
    })
    .await;
    assert_eq!(types(&heard), ["stream.changed"]);
    assert_eq!(streams(&heard), [(1, Some("0.0.1"))]);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_told_is_found_within_ten_seconds() {
    let world = World::new();
    let socket = world.begun().await;
    world.logs.number(world.user, 1);
    world.logs.stream.store(9, SeqCst);
    let began = tokio::time::Instant::now();
    let mut heard = Vec::new();
    until(|| {
        heard.extend(frames(&socket));
        heard.len() >= 2
    })
    .await;
    assert!(began.elapsed() <= Duration::from_secs(11));
    assert_eq!(numbers(&heard), [1]);
    let told: Vec<u64> = streams(&heard).iter().map(|told| told.0).collect();
    assert_eq!(told, [9]);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_said_to_have_more_is_looked_at_at_once() {
    let world = World::new();
    let socket = world.begun().await;
    world.logs.number(world.user, 1);
    world.hub.deliver(UserId::random(), Hint::Missed);
    world.hub.deliver(world.user, Hint::Missed);
    let began = tokio::time::Instant::now();
    let mut heard = Vec::new();
    until(|| {
        heard.extend(numbers(&frames(&socket)));
        heard == [1]
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(world.logs.reads.load(SeqCst), 1);
}
