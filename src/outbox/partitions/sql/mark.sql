-- Says of a partition, {name}, that it will be taken off and dropped, with the ids that it has: {lower} to {upper}.
-- Repeatable.
comment on table {name} is 'outbox-relay drops this table: its events from id {lower} to {upper} are finished';
