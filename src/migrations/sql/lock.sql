-- Waits until no 0.1 migrates anything in this database, and keeps it from beginning. Others of our own version share
-- this lock: theirs is the one of lock_schema.sql. $1 bigint: key of the lock. Released when the session ends.
select pg_advisory_lock_shared($1)
