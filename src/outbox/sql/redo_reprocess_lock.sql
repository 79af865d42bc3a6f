-- Whether this transaction may do the scheduled retry; another one may be at it. 28514 is the class of our locks: instances have keys
-- from 0 on, -2 is the cleaner, -3 who looks after partitions. Held to the end of the transaction.
select pg_try_advisory_xact_lock(28514, -1) as locked
