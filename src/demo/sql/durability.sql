-- Whether a commit of this session survives a power cut. Returns one boolean. Reads only.
select
  current_setting('fsync')::boolean
  and current_setting('full_page_writes')::boolean
  and current_setting('synchronous_commit') not in ('off', 'local')
