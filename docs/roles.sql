-- Least privilege for outbox-relay: run as the owner of the schema, after `outbox-relay migrate up`. Adapt the names.
-- Passwords and LOGIN are left to you: grant these roles to your login roles. Tables in a schema of their own: set the search_path to it
-- first. Roles of an earlier version of this file may have more: revoke insert on outbox_events from outbox_app, outbox_relay and
-- outbox_operator, and select on all other tables from outbox_reader.
-- Made from src/outbox/grants.rs; `BLESS=1 scripts/with-parts.sh cargo test --test it -- roles_file` writes it.

-- Applications insert events and need not even read the table. By column: all others are the relay's. Where an insert returns the id
-- (`returning id`), also: grant select (id) on outbox_events to outbox_app;
create role outbox_app nologin;
do $$ begin execute format('grant usage on schema %I to outbox_app', current_schema()); end $$;
grant insert (event_id, aggregate_type, aggregate_id, event_type, event_version, topic, partition_key, payload, payload_raw, headers, correlation_id, causation_id, source, traceparent, created_at, available_at) on outbox_events to outbox_app;
grant execute on function outbox_shard_count() to outbox_app;
grant execute on function outbox_key_of(text, text) to outbox_app;
grant execute on function outbox_shard_of(text, bigint) to outbox_app;

-- The relay reads events and changes their state, writes dead letters, and keeps its own tables.
create role outbox_relay nologin;
do $$ begin execute format('grant usage on schema %I to outbox_relay', current_schema()); end $$;
grant select, update (status, retry_count, last_error, failed_at, dead_letter_to, dead_letter_from, published_at, published_partition, published_offset), insert (event_id, aggregate_type, aggregate_id, event_type, event_version, topic, partition_key, payload, payload_raw, headers, correlation_id, causation_id, source, traceparent, created_at, dead_letter_of) on outbox_events to outbox_relay;
grant select, update (status) on outbox_claimable to outbox_relay;
grant select on outbox_events_id_seq to outbox_relay;
grant select, update on outbox_shards to outbox_relay;
grant select, insert, update, delete on outbox_instances to outbox_relay;
grant select, insert, update, delete on outbox_held_keys to outbox_relay;
grant select, insert, delete on outbox_again to outbox_relay;
grant select, insert, update, delete on outbox_outcomes to outbox_relay;
grant select, insert, update on outbox_decisions to outbox_relay;
grant select, insert, delete on outbox_progress to outbox_relay;
grant select, update (home_system, home_database) on outbox_installation to outbox_relay;
grant select on outbox_pauses to outbox_relay;
grant select on outbox_schema_history to outbox_relay;
grant execute on function outbox_shard_count() to outbox_relay;
grant execute on function outbox_key_of(text, text) to outbox_relay;
grant execute on function outbox_shard_of(text, bigint) to outbox_relay;
grant execute on function outbox_session_key(uuid) to outbox_relay;
grant execute on function outbox_rehome(bigint[]) to outbox_relay;
grant execute on function outbox_expect_left(bigint[], text[]) to outbox_relay;
grant execute on function outbox_json_text(jsonb, bigint) to outbox_relay;
grant execute on function outbox_json_text_measured(jsonb, bigint) to outbox_relay;
grant execute on function outbox_count_claimed(bigint, bigint, bigint) to outbox_relay;
-- What [cleanup] and relay.after_publish = "delete" need, and the command cleanup.
grant delete on outbox_events to outbox_relay;
-- What [cleanup] needs besides. The last one shows how far replicas are behind, and old transactions of others.
grant execute on function outbox_passed(double precision) to outbox_relay;
grant select on outbox_retired_shards to outbox_relay;
grant select, delete on event_handled to outbox_relay;
grant select, delete on outbox_jobs to outbox_relay;
grant pg_read_all_stats to outbox_relay;
-- A partitioned outbox has to belong to this role: alter table outbox_events owner to outbox_relay, and each of its partitions; and grant
-- create on the schema to outbox_relay.
-- For cleanup, recover and the commands that look, with this role.
grant select on outbox_current to outbox_relay;
grant insert, update on outbox_jobs to outbox_relay;
grant execute on function outbox_shown(text) to outbox_relay;
grant execute on function outbox_text(text) to outbox_relay;
grant execute on function outbox_escaped(text) to outbox_relay;
grant select, insert on outbox_audit to outbox_relay;

-- Operators: events, pause and resume, replay, dlq, and what looks. They append rows as applications do, change the state of those
-- that failed or wait, and keep note of it.
create role outbox_operator nologin;
do $$ begin execute format('grant usage on schema %I to outbox_operator', current_schema()); end $$;
grant select, update (status, retry_count, last_error, failed_at, dead_letter_to), insert (event_id, aggregate_type, aggregate_id, event_type, event_version, topic, partition_key, payload, payload_raw, headers, correlation_id, causation_id, source, traceparent, created_at, available_at, replay_of) on outbox_events to outbox_operator;
grant select on outbox_current to outbox_operator;
grant select on outbox_events_id_seq to outbox_operator;
grant select, update on outbox_shards to outbox_operator;
grant select, insert, update, delete on outbox_held_keys to outbox_operator;
grant select, insert on outbox_again to outbox_operator;
grant select, insert, delete, update on outbox_outcomes to outbox_operator;
grant select on outbox_progress to outbox_operator;
grant select, insert, update on outbox_decisions to outbox_operator;
grant select, insert, delete on outbox_pauses to outbox_operator;
grant select, insert, update on outbox_replays to outbox_operator;
grant select, insert, update on outbox_jobs to outbox_operator;
grant select, insert, update, delete on outbox_redriven to outbox_operator;
grant select, insert on outbox_audit to outbox_operator;
grant select on outbox_instances to outbox_operator;
grant select on outbox_installation to outbox_operator;
grant select, insert, update, delete on consumer_partitions to outbox_operator;
grant select, insert, update, delete on event_handled to outbox_operator;
grant select, update on consumer_parked to outbox_operator;
grant select on outbox_schema_history to outbox_operator;
grant execute on function outbox_shard_count() to outbox_operator;
grant execute on function outbox_key_of(text, text) to outbox_operator;
grant execute on function outbox_shard_of(text, bigint) to outbox_operator;
grant execute on function outbox_json_text(jsonb, bigint) to outbox_operator;
grant execute on function outbox_json_text_measured(jsonb, bigint) to outbox_operator;
grant execute on function outbox_rehome(bigint[]) to outbox_operator;
grant execute on function outbox_expect_left(bigint[], text[]) to outbox_operator;
grant execute on function outbox_shown(text) to outbox_operator;
grant execute on function outbox_text(text) to outbox_operator;
grant execute on function outbox_escaped(text) to outbox_operator;

-- The consumer.
create role outbox_consumer nologin;
do $$ begin execute format('grant usage on schema %I to outbox_consumer', current_schema()); end $$;
grant select, insert, update on consumer_partitions to outbox_consumer;
grant select, insert on event_handled to outbox_consumer;
grant select, insert, update, delete on consumer_parked to outbox_consumer;
grant select on outbox_schema_history to outbox_consumer;
-- [cleanup] of event_handled, where no relay runs in the process of the consumer.
grant delete on event_handled to outbox_consumer;
-- The projection that is built in. Projections of your own need what their SQL needs.
grant select, insert, update on product_metrics to outbox_consumer;

-- Dashboards and people who look: the tables of outbox-relay by name, and no others.
create role outbox_reader nologin;
do $$ begin execute format('grant usage on schema %I to outbox_reader', current_schema()); end $$;
grant select on outbox_events to outbox_reader;
grant select on outbox_claimable to outbox_reader;
grant select on outbox_current to outbox_reader;
grant select on outbox_events_id_seq to outbox_reader;
grant select on outbox_shards to outbox_reader;
grant select on outbox_retired_shards to outbox_reader;
grant select on outbox_instances to outbox_reader;
grant select on outbox_held_keys to outbox_reader;
grant select on outbox_again to outbox_reader;
grant select on outbox_outcomes to outbox_reader;
grant select on outbox_decisions to outbox_reader;
grant select on outbox_progress to outbox_reader;
grant select on outbox_pauses to outbox_reader;
grant select on outbox_replays to outbox_reader;
grant select on outbox_jobs to outbox_reader;
grant select on outbox_redriven to outbox_reader;
grant select on outbox_audit to outbox_reader;
grant select on outbox_installation to outbox_reader;
grant select on consumer_partitions to outbox_reader;
grant select on event_handled to outbox_reader;
grant select on consumer_parked to outbox_reader;
grant select on product_metrics to outbox_reader;
grant select on outbox_schema_history to outbox_reader;
grant execute on function outbox_shard_count() to outbox_reader;
grant execute on function outbox_key_of(text, text) to outbox_reader;
grant execute on function outbox_shard_of(text, bigint) to outbox_reader;
grant execute on function outbox_json_text(jsonb, bigint) to outbox_reader;
grant execute on function outbox_json_text_measured(jsonb, bigint) to outbox_reader;
grant execute on function outbox_shown(text) to outbox_reader;
grant execute on function outbox_text(text) to outbox_reader;
grant execute on function outbox_escaped(text) to outbox_reader;
grant execute on function outbox_passed(double precision) to outbox_reader;
