-- Empties the relation before a projection that handles other events than the one before it. No parameters; repeatable.
delete from new_events
