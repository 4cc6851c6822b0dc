//! A file that is validated and sealed as it comes; of one with errors, its wrong lines are stored instead.

use std::sync::Arc;

use penstock_crypto::DataKey;
use penstock_domain::csv::{LimitExceeded, Refused, Rejected, Schema, Validated, Validator};
use penstock_domain::ids::BatchId;

use crate::context::error::FlowError;
use crate::context::references::References;
use crate::context::services::Services;
use crate::intake::error_file::{self, ErrorFile, KeyOf};
use crate::intake::refused::{RefusedFile, TooLarge, UploadError};
use crate::intake::sealed_file::{SealedWriter, sealed_key};

/// Bytes that are validated at a time: in another dialect they are written anew before they are stored.
const STEP: usize = 4096;

/// Whose file it is, and how it is kept.
pub(crate) struct FileOf<'a> {
    pub services: &'a Services,
    pub owner: &'a str,
    pub pipeline: &'a str,
    /// The batch that it becomes.
    pub id: BatchId,
    /// Seals the file.
    pub key: &'a DataKey,
    /// Seals the list of errors.
    pub errors_key: KeyOf,
    pub schema: Arc<Schema>,
    /// What separates columns in reports; none: what does in the file.
    pub delimiter: Option<u8>,
    /// Whether they begin with a byte order mark: an upload of them is read as the pipeline's files are, unless it begins with one.
    pub mark: bool,
}

/// A file under way. Dropping it leaves nothing behind.
pub(crate) struct CheckedFile {
    validator: Validator,
    object: Object,
}

/// What is stored of a file.
struct Object {
    services: Services,
    owner: String,
    pipeline: String,
    id: BatchId,
    errors_key: KeyOf,
    written: Written,
}

/// The sealed file, or, once there is an error, the list of errors.
enum Written {
    File(SealedWriter),
    Errors(SealedWriter, ErrorFile),
    /// The list cannot be stored; the errors are reported without it.
    Nothing,
}

impl CheckedFile {
    /// Begins a file.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn start(of: FileOf<'_>) -> Result<Self, FlowError> {
        let references = Arc::new(References::of(of.services, of.owner, of.pipeline).await?);
        let listing = error_file::listing(references.clone(), of.id, of.delimiter, of.mark);
        let writer = SealedWriter::new(of.services, sealed_key(of.owner, of.id), of.key, of.id)?;
        let object = Object {
            services: of.services.clone(),
            owner: of.owner.to_owned(),
            pipeline: of.pipeline.to_owned(),
            id: of.id,
            errors_key: of.errors_key,
            written: Written::File(writer),
        };
        Ok(Self { validator: Validator::new(of.schema, references).listing(listing), object })
    }

    /// Whether it has more bytes than it may: those that a report of ours added do not count.
    pub fn is_too_large(&self, received: u64, most: u64) -> bool {
        self.validator.allowance().is_some_and(|allowance| received > most.saturating_add(allowance))
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.validator.rows()
    }

    /// How many errors there are so far.
    pub fn errors(&self) -> u64 {
        self.validator.errors().1
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// As soon as a limit is passed; when the object store fails.
    pub async fn push(&mut self, mut bytes: &[u8]) -> Result<(), UploadError> {
        while !bytes.is_empty() {
            let taken = match self.validator.push(&bytes[..STEP.min(bytes.len())]) {
                Ok(taken) => taken,
                Err(limit) => return Err(self.stopped(&limit).await),
            };
            let (now, rest) = bytes.split_at(taken);
            bytes = rest;
            self.store(now).await?;
        }
        Ok(())
    }

    /// No more bytes come.
    ///
    /// # Errors
    /// As [`CheckedFile::push`].
    pub async fn complete(&mut self) -> Result<(), UploadError> {
        match self.validator.complete() {
            Ok(()) => self.store(&[]).await,
            Err(limit) => Err(self.stopped(&limit).await),
        }
    }

    async fn stopped(&mut self, limit: &LimitExceeded) -> UploadError {
        let rejected = self.validator.stopped(limit);
        UploadError::TooLarge(TooLarge::Csv(self.object.refused(rejected).await))
    }

    /// Stores what was made of the bytes that were taken last, or the errors in them.
    async fn store(&mut self, taken: &[u8]) -> Result<(), UploadError> {
        if self.validator.has_errors() {
            self.object.store_errors(|| self.validator.next_piece()).await;
        } else if let Written::File(writer) = &mut self.object.written {
            writer.push(self.validator.stored(taken)).await?;
        }
        Ok(())
    }

    /// The file is complete.
    ///
    /// # Errors
    /// The file's errors, when it has any.
    pub async fn finish(mut self) -> Result<(Validated, SealedWriter), UploadError> {
        match self.validator.finish() {
            Ok(validated) => match self.object.written {
                Written::File(writer) => Ok((validated, writer)),
                _ => Err(FlowError::Inconsistent("a file without errors is not stored".into()).into()),
            },
            Err(Refused::Errors(rejected)) => Err(UploadError::Rejected(self.object.refused(rejected).await)),
            Err(Refused::Limit(rejected)) => {
                Err(UploadError::TooLarge(TooLarge::Csv(self.object.refused(rejected).await)))
            }
        }
    }

    /// The file has more than so many bytes: that, and the errors found before.
    pub async fn too_large(&mut self, most: u64) -> RefusedFile {
        let message = format!(
            "the file has more than {most} bytes; split it, with the header as the first line of each part"
        );
        self.broken(None, "file_too_large", message).await
    }

    /// The file cannot be read further: that, and the errors found before. Without a `line` it is the one that is read.
    pub async fn broken(&mut self, line: Option<u64>, code: &'static str, message: String) -> RefusedFile {
        let line = line.unwrap_or_else(|| self.validator.line());
        let rejected = self.validator.broken_off(line, None, code, || message);
        self.object.refused(rejected).await
    }

    /// Takes back what was sent so far.
    pub async fn abort(self) {
        match self.object.written {
            Written::File(writer) | Written::Errors(writer, _) => writer.abort().await,
            Written::Nothing => {}
        }
    }
}

impl Object {
    /// Completes the list of errors.
    async fn refused(&mut self, mut rejected: Rejected) -> RefusedFile {
        self.store_errors(|| rejected.listing.next_piece()).await;
        let list = match std::mem::replace(&mut self.written, Written::Nothing) {
            Written::Errors(writer, file) => writer.finish().await.inspect_err(not_stored).ok().map(|_| file),
            Written::File(writer) => {
                writer.abort().await;
                None
            }
            Written::Nothing => None,
        };
        RefusedFile { rejected, list }
    }

    /// A file that is refused anyway is not stored; it is read on for its other errors, which are.
    async fn store_errors(&mut self, mut next_piece: impl FnMut() -> Vec<u8>) {
        if let Written::File(_) = self.written {
            let (services, key) = (&self.services, &self.errors_key);
            let list = error_file::create(services, &self.owner, self.id, &self.pipeline, key).await;
            let list = match list.inspect_err(not_stored) {
                Ok((writer, file)) => Written::Errors(writer, file),
                Err(_) => Written::Nothing,
            };
            if let Written::File(writer) = std::mem::replace(&mut self.written, list) {
                writer.abort().await;
            }
        }
        while let Written::Errors(writer, _) = &mut self.written {
            let piece = next_piece();
            if piece.is_empty() {
                return;
            }
            if let Err(error) = writer.push(&piece).await {
                not_stored(&error);
                if let Written::Errors(writer, _) = std::mem::replace(&mut self.written, Written::Nothing) {
                    writer.abort().await;
                }
            }
        }
    }
}

/// The client reads the first errors all the same.
fn not_stored(error: &FlowError) {
    tracing::warn!(%error, "the list of a file's errors could not be stored");
}
