-- Reads the whole table once, while everybody goes on working with it. Repeatable.
alter table outbox_events validate constraint outbox_events_bound
