-- Begins a conversion: a check that no row can fail, and that comes to mean something at its end
-- (exchange.sql). ATTACH asks for a validated check, and this one can be validated beforehand without knowing
-- the last id, and without refusing any insert, however long it stays. A column-wise limit would be a trap: ids grow
-- until it is reached.
create or replace function outbox_events_bound() returns bigint language sql immutable parallel safe return 9223372036854775807;
grant execute on function outbox_events_bound() to public;
alter table outbox_events add constraint outbox_events_bound check (id <= outbox_events_bound()) not valid;
