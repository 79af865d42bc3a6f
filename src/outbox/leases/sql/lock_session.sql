-- Takes the advisory lock that shows to others that this instance lives. PostgreSQL drops it with the session.
-- $1 uuid: instance. 28514 is the class of our locks. Taking it twice in one session does no harm.
select pg_try_advisory_lock(28514, outbox_session_key($1)) as locked
