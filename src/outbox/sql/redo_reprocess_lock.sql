-- Whether this transaction may do the scheduled retry; another one may be at it. 28514 is the class of our locks; instances have keys
-- from 0 on, the cleaner has -1. Held to the end of the transaction.
select pg_try_advisory_xact_lock(28514, -2) as locked
