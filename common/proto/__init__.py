"""Wire records: bottega.proto, enrolment.proto, roster.proto and the code generated from them (`make proto`)."""
