-- Keys that wait for a partition of their topic, and why.

-- In words, for people: "partition 3 of orders has no leader".
alter table outbox_held_keys add column detail text;
-- The list grew by one, so what is there fits it.
alter table outbox_held_keys
  drop constraint outbox_held_keys_reason,
  add constraint outbox_held_keys_reason
    check (reason in ('failed', 'retry', 'delayed', 'paused', 'no-topic', 'denied', 'partition')) not valid;
