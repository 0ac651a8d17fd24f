-- Columns are named by the words that the code and the documents use.

ALTER TABLE jobs RENAME COLUMN claim TO unconfirmed;

ALTER TABLE jobs RENAME COLUMN settle_by TO confirm_by;

ALTER TABLE jobs RENAME COLUMN last_heard_at TO last_report_at;

ALTER TABLE callbacks RENAME COLUMN verdict TO disposition;

ALTER TABLE reprocessings RENAME COLUMN verdict TO disposition;
