-- Ends a DETACH CONCURRENTLY of {name} that was interrupted. Repeatable until it has succeeded.
alter table outbox_events detach partition {name} finalize;
