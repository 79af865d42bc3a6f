-- Least privilege for outbox-relay: run as the owner of the schema, after `outbox-relay migrate up`. Adapt the names.
-- Passwords and LOGIN are left to you: grant these roles to your login roles.

-- Applications: insert events, nothing else. They need not even read the table.
create role outbox_app nologin;
grant insert on outbox_events to outbox_app;

-- The relay: reads events and changes their state; keeps its own tables.
create role outbox_relay nologin;
grant select on outbox_events, outbox_claimable, outbox_current, outbox_events_id_seq to outbox_relay;
grant update (status, retry_count, last_error, failed_at, dead_letter_to, dead_letter_from, published_at, published_partition, published_offset) on outbox_events to outbox_relay;
-- Locking rows through the view asks for the right to update it; what may be changed is decided by the line above.
grant update (status) on outbox_claimable to outbox_relay;
-- Dead letters are rows of the outbox.
grant insert on outbox_events to outbox_relay;
grant select, update on outbox_shards to outbox_relay;
grant select, insert, update, delete on outbox_instances, outbox_held_keys to outbox_relay;
-- How far shards are whose rows are not marked, and what waits again in them.
grant select, insert, delete on outbox_again, outbox_progress to outbox_relay;
-- What became of events whose rows refuse to be changed.
grant select, insert, update, delete on outbox_outcomes to outbox_relay;
grant select on outbox_retired_shards to outbox_relay;
grant select, insert on outbox_audit to outbox_relay;
grant select on outbox_installation, outbox_pauses to outbox_relay;
-- Where the outbox lives, noted by the first relay that runs, so that a copy of the database is told from it.
grant update (home_system, home_database) on outbox_installation to outbox_relay;
grant select on refinery_schema_history to outbox_relay;
-- A partitioned outbox has to belong to the relay's role: alter table outbox_events owner to outbox_relay, and each of its partitions;
-- and: grant create on schema public to outbox_relay.
-- What [cleanup] needs, here and in the command cleanup: without it nothing is deleted. The last one shows how far replicas are behind.
grant delete on outbox_events to outbox_relay;
grant select, delete on event_handled to outbox_relay;
grant pg_read_all_stats to outbox_relay;

-- Operators: events retry and discard, pause and resume, replay, dlq. They append rows as applications do, change the state of those
-- that failed or wait, and keep note of it.
create role outbox_operator nologin;
grant select, insert on outbox_events to outbox_operator;
grant select on outbox_current, outbox_progress to outbox_operator;
grant select, delete on outbox_outcomes to outbox_operator;
grant select, insert on outbox_again to outbox_operator;
grant update (status, retry_count, last_error, failed_at, dead_letter_to) on outbox_events to outbox_operator;
grant select, update on outbox_shards to outbox_operator;
grant select, insert, update on outbox_held_keys to outbox_operator;
grant select, insert, delete on outbox_pauses to outbox_operator;
grant select, insert, update on outbox_replays to outbox_operator;
grant select, insert, update, delete on outbox_redriven to outbox_operator;
grant select, insert on outbox_audit to outbox_operator;
grant select on refinery_schema_history to outbox_operator;

-- The consumer, on top of what its projections need.
create role outbox_consumer nologin;
grant select, insert, update on consumer_partitions to outbox_consumer;
grant select, insert on event_handled, consumer_parked to outbox_consumer;
grant select, insert, update on product_metrics to outbox_consumer;
grant select on refinery_schema_history to outbox_consumer;

-- Dashboards and people who look.
create role outbox_reader nologin;
grant select on all tables in schema public to outbox_reader;
