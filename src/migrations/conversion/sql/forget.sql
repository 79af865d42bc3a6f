-- Takes back what bound.sql did, in one attempt. Repeatable.
alter table outbox_events drop constraint if exists outbox_events_bound;
drop function if exists outbox_events_bound();
