-- Transactions that have drawn an id of the outbox, as text ids that are unique while they run; a prepared one has the
-- session -1 in it. Second step of the lock barrier. nextval locks the sequence before it draws, and keeps the lock to
-- the end of the top-level transaction, rolled back savepoints and prepared transactions included. So once those of now
-- are gone, every id drawn before is either visible or will never be. No name of a session is believed: a lane that
-- only updates rows holds no such lock, and one whose update fires a trigger that inserts an event does.
select distinct virtualtransaction
from pg_locks
where locktype = 'relation' and mode = 'RowExclusiveLock'
  and database = (select oid from pg_database where datname = current_database())
  and relation = 'outbox_events_id_seq'::regclass
