//! What comes of a call, judged once and in one place (docs/write-a-pipeline.md shows the same table).
