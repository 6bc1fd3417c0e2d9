-- Format 5 only adds: claims of workers from outside begin where it is told them. Nodes of format 4 go on beside it, and begin
-- at the beginning.

-- When work that had been due for longer came to be claimable: it was behind others in its lane, or was given back.
ALTER TABLE comanda.due ADD COLUMN late_at timestamptz;
CREATE INDEX due_late ON comanda.due (late_at) WHERE late_at IS NOT NULL;
