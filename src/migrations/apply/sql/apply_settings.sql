-- For one attempt to apply migrations, a transaction. Whoever waits for us, because we wait for a lock that a
-- transaction of his or of somebody else holds, waits for that long at most.
set local lock_timeout = '200ms'
