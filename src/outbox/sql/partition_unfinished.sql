-- Whether {name}, which was taken off, has a row that is not finished. Changes nothing.
select exists (select 1 from {name} where status not in ('PUBLISHED', 'DISCARDED')) as unfinished
