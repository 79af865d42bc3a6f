-- Cancels a job. $1 uuid: the job. $2 text: who. A process that is at work on it is asked to stop, and ends the job
-- itself. Where none is, the job ends here, in a new epoch, so that a process that wakes up again is fenced. Returns
-- the new state. No row: there is no such job, or it has ended. A repeat changes nothing more, unless the process has
-- died since.
update outbox_jobs j
set state = case when j.lease_until < now.at then 'cancelled' else 'cancelling' end,
  ended_at = case when j.lease_until < now.at then now.at end,
  epoch = j.epoch + case when j.lease_until < now.at then 1 else 0 end,
  cancelled_by = coalesce(j.cancelled_by, $2)
from (select clock_timestamp() as at) now
where j.id = $1 and j.ended_at is null
returning j.state
