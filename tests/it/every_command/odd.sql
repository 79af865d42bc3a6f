-- Gives rows behind the first 13 a state each, with and without an outcome of their own, and fills every table of ours
-- with values that PostgreSQL can hold and that we would not write. Run once.
update outbox_events set status = 'FAILED', last_error = coalesce(last_error, 'too-large: x'), failed_at = coalesce(failed_at, created_at)
  where id > 13 and id % 5 = 0;
update outbox_events set status = 'HELD' where id > 13 and id % 5 = 1;
update outbox_events set status = 'PUBLISHED', published_at = coalesce(published_at, created_at) where id > 13 and id % 5 = 2;
insert into outbox_outcomes (id, event_id, status, sqlstate, at, last_error, key_md5)
  select id, event_id, (array['FAILED', 'HELD', 'DISCARDED', 'PUBLISHED'])[1 + id / 5 % 4], 'P0001',
    (array['infinity', '-infinity', now()::text, '0001-01-01'])[1 + id / 7 % 4]::timestamptz, coalesce(last_error, 'x: y'),
    md5(outbox_key_of(partition_key, aggregate_id))
  from outbox_events where id > 13 and id % 5 = 3;
insert into outbox_held_keys (first_id, shard, partition_key, reason, held_at, release_at, topic, detail)
  select id, shard, outbox_key_of(partition_key, aggregate_id), 'delayed', created_at, available_at, left(topic, 300), left(last_error, 300)
  from outbox_events where id > 13 and id % 5 = 0
  on conflict do nothing;
insert into outbox_pauses (topic, paused_at, actor, reason)
  values (E'a\x1b[31m\nb', 'infinity', E'\x01', E'\x1b[2J'), (repeat('t', 1000), '-infinity', '', ''), ('*', '294276-12-31', 'x', null);
insert into outbox_replays (id, filter, to_topic, rate, upto_id, last_id, matched, copied, created_at, actor, reason, runner, finished_at)
  values
    (gen_random_uuid(), '{"later": 1}', E'\x1b[31m', 1, 9223372036854775807, -9223372036854775808, 9223372036854775807, -1, 'infinity', '', '',
      gen_random_uuid(), null),
    (gen_random_uuid(), 'null', '', 2147483647, 0, 0, -9223372036854775808, 9223372036854775807, '-infinity', E'\n', null, gen_random_uuid(),
      'infinity'),
    (gen_random_uuid(), '[]', null, null, -1, 5, 0, 0, '294276-12-31', 'x', 'y', gen_random_uuid(), '-infinity');
insert into outbox_jobs (id, kind, arguments, actor, reason, state, parts, cursor, result, epoch, runner, run_by, started_at, resumed_at, updated_at,
    lease_until, cancelled_by, error_code, error, hint, ended_at)
  select gen_random_uuid(), k, a::jsonb, t, t, s, p::jsonb, a::jsonb, a::jsonb, (array[-9223372036854775808, -1, 0, 1, 9223372036854775807])[1 + n % 5],
    gen_random_uuid(), t, w::timestamptz, w::timestamptz, w::timestamptz, w::timestamptz, t, t, t, t,
    case when s not in ('running', 'cancelling') then w::timestamptz end
  from unnest(array['replay', 'cleanup', 'redrive', 'reshard', 'rebuild', '', E'\x1b[31m\x01', repeat('k', 10000)]) k,
    unnest(array['running', 'cancelling', 'cancelled', 'done', 'failed']) s,
    unnest(array[E'\x1b[2J\n\x01', '', repeat('x', 20000)], array['infinity', '-infinity', '294276-12-31'],
      array['[]', '{"shards": 1e400, "status": [7], "topics": {}}', '{"older_than_seconds": -1, "status": [], "limit": -5, "shards": 4}'],
      array['[{"what": "copied", "done": -1, "total": 1e30}]', '7', '[{"what": "\u001b[31m\n", "done": 18446744073709551615, "total": 1}]'])
      with ordinality as o(t, w, a, p, n);
insert into outbox_redriven (topic, partition, "offset", event_id, failed_at, row_id, at, actor)
  values (E'\x1b', 2147483647, 9223372036854775807, gen_random_uuid(), E'\x01', -1, 'infinity', ''),
    ('', -2147483648, -1, gen_random_uuid(), null, null, '-infinity', '');
insert into outbox_decisions (id, event_id, decision, at)
  select id, event_id, (array['retry', 'discard'])[1 + id % 2], (array['infinity', '-infinity', '294276-12-31'])[1 + id % 3]::timestamptz
  from outbox_events where id % 3 = 0;
insert into outbox_instances (instance, name, version, started_at, heartbeat_at, protocol)
  values (gen_random_uuid(), E'a\x1b[31m\nb', 'this is 99', 'infinity', '-infinity', 2), (gen_random_uuid(), '', '0.2.0', '-infinity', 'infinity', 2),
    (gen_random_uuid(), repeat('n', 10000), '0.2.0', '294276-12-31', '0001-01-01', 2147483647);
insert into outbox_audit (at, actor, action, details)
  values ('infinity', E'\x1b', '', 'null'), ('-infinity', '', 'retry', '{"ids": "x"}'), (now(), '', 'retry', '{"ids": [6, "6", null, 1e100]}'),
    (now(), '', 'discard', '[]'), (now(), repeat('a', 10000), repeat('b', 10000), '{"ids": {"6": 6}}');
insert into outbox_progress (shard, done_id, at) values (0, 9223372036854775807, 'infinity'), (1, -1, '-infinity'), (300, 5, '294276-12-31');
insert into outbox_again (id, shard) values (9223372036854775807, 32767), (-1, -1);
insert into consumer_partitions (consumer_group, topic, partition, epoch, next_offset, updated_at, projection, written_offset, cluster_id, topic_id,
    last_offset, last_recorded_at, stopped_reason, stopped_detail, stopped_at)
  values
    (E'g\x1b[31m', E't\n', 2147483647, 9223372036854775807, 9223372036854775807, 'infinity', E'\x01', -1, E'\x1b', gen_random_uuid(), -1, 'infinity',
      E'\x1b[2J', E'a\nb', 'infinity'),
    ('', '', 0, 1, 0, '-infinity', '', 9223372036854775807, '', null, 9223372036854775807, '-infinity', '', '', '-infinity'),
    (repeat('g', 1000), repeat('t', 1000), 1, 1, 1, '294276-12-31', null, null, null, null, null, '0001-01-01', 'ahead-of-log', 'x', '294276-12-31');
insert into event_handled (consumer_group, event_id, event_type, aggregate_type, aggregate_id, event_version, topic, partition, "offset", handled_at)
  select E'g\x1b', e.event_id, E'\x1b', E'\n', E'\x01', -2147483648, E'\x1b[31m', -1, -1,
    (array['infinity', '-infinity', '294276-12-31'])[1 + e.id % 3]::timestamptz
  from (select distinct on (event_id) event_id, id from outbox_events where id % 4 = 0) e;
insert into consumer_parked (consumer_group, event_id, event_type, topic, partition, "offset", key, value, headers, recorded_at, error, parked_at,
    projection, attempts, release_asked_at, discarded_at)
  select k.consumer_group, gen_random_uuid(), t, coalesce(t, ''), n::int, n, convert_to(t, 'UTF8'), decode('ff00fe', 'hex'), h::jsonb, w::timestamptz,
    coalesce(t, ''), w::timestamptz, t, -1, null, case when n % 2 = 0 then w::timestamptz end
  from (select consumer_group from consumer_parked limit 1) k,
    unnest(array[null, '', E'\x1b[31m\x01', E'a\nb', repeat('x', 100000)],
      array['[]', 'null', '[["a", {"hex": "ff"}], [{"hex": "zz"}, null], 7, [], ["a"]]', '{}', '[[1, 2, 3]]'],
      array['infinity', '-infinity', '294276-12-31', '4713-01-01 BC', null]) with ordinality as o(t, h, w0, n),
    lateral (select coalesce(w0, '2026-05-01') as w) w;
