-- Puts a table that was taken off, {name}, back in its place: it has a row that is not finished. What DETACH
-- CONCURRENTLY left (a check of the bounds) spares a scan.
alter table outbox_events attach partition {name} for values from ({lower}) to ({upper});
