-- How an attempt's time was spent, and the start of its answer's headers, for the people who mend a receiver.
ALTER TABLE attempts ADD COLUMN exchange TEXT;
