-- Copies that a process is making: a start takes back those of processes that have ended, however many wait.
CREATE INDEX copies_leased ON copies (leased_by) WHERE leased_by IS NOT NULL;
