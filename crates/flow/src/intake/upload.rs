//! Upload: bytes are parsed, every row is validated and the sealed file is stored as they arrive.
//!
//! Only a file without an error becomes a batch; everything else leaves nothing behind.

use std::sync::Arc;

use penstock_crypto::{DataKey, Fingerprinter};
use penstock_domain::csv::{Validated, Workbook};
use penstock_domain::ids::BatchId;
use penstock_store::batches::{Batch, Checkpoint, Created, Idempotency, NewBatch, SealedKey};
use penstock_store::progress::Progress;
use serde_json::Value;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::context::error::FlowError;
use crate::context::installation;
use crate::context::object_writer::PartWriter;
use crate::context::objects::delete;
use crate::context::secrets::{SecretLocation, SecretsOf};
use crate::context::services::Services;
use crate::context::stored_definitions;
use crate::crash;
use crate::intake::checked_file::{CheckedFile, FileOf};
use crate::intake::content::{self, Content, Stored, WORKBOOK};
use crate::intake::create_batch::{NotMade, create_batch, enqueue_extraction};
use crate::intake::error_file::KeyOf;
use crate::intake::refused::{TooLarge, UploadError};
pub use crate::intake::request::{Accepted, UploadFields, UploadRequest};
use crate::intake::request::{absorb_fields, check_context};
use crate::intake::unpack::{Unpack, UnpackError};

/// An upload under way. Dropping it leaves nothing behind.
pub struct Upload {
    services: Services,
    request: UploadRequest,
    id: BatchId,
    span: Span,
    secrets: SecretsOf,
    unpack: Unpack,
    file: CheckedFile,
    /// The first bytes, until it is known whether the file is a workbook; none where the pipeline takes no workbooks.
    beginning: Option<Vec<u8>>,
    /// The workbook, if it is one.
    workbook: Option<PartWriter>,
    /// Bytes that came, unpacked, stored or not.
    received: u64,
    earlier: Option<(Batch, Idempotency)>,
    /// The first is made under the installation's own secret; a second one compares with a promise from before there was one.
    fingerprints: Vec<(String, Fingerprinter)>,
}

impl Upload {
    /// Begins an upload.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn start(services: &Services, request: UploadRequest) -> Result<Self, FlowError> {
        let now = services.clock.now();
        let id = services.id_generator.batch_id(now);
        let key = DataKey::generate(services.random.as_ref())
            .map_err(|source| FlowError::Sealed { what: "a new data key", source })?;
        let key = Arc::new(key);
        let earlier = match &request.idempotency_key {
            Some(idempotency_key) => services.store.idempotent(request.owner, idempotency_key).await?,
            None => None,
        };
        let fingerprints = if request.may_be_repeated() {
            let earlier = earlier.as_ref().map(|(_, promise)| promise.key_id.as_str());
            fingerprinters(services, earlier).await?
        } else {
            Vec::new()
        };
        let schema = request.pipeline.schema.clone();
        let mark = schema.dialect.is_marked_in_reports();
        let takes_workbooks = schema.dialect.workbook != Workbook::No;
        let file = CheckedFile::start(FileOf {
            services,
            owner: &request.owner_name,
            pipeline: &request.pipeline.name,
            id,
            key: &key,
            errors_key: KeyOf::Upload,
            schema,
            delimiter: None,
            mark,
        })
        .await?;
        let span = tracing::info_span!("upload", batch = %id, trace_id = Empty);
        services.traces.of_batch(&span, id.0);
        Ok(Self {
            services: services.clone(),
            id,
            span,
            secrets: SecretsOf::new(id, key, Value::Null),
            unpack: Unpack::default(),
            file,
            beginning: takes_workbooks.then(Vec::new),
            workbook: None,
            received: 0,
            earlier,
            fingerprints,
            request,
        })
    }

    /// Takes the next bytes of the file, which may be compressed with gzip.
    ///
    /// # Errors
    /// As soon as a limit is passed; when it cannot be unpacked; when the object store fails.
    pub async fn push(&mut self, mut bytes: &[u8]) -> Result<(), UploadError> {
        while !bytes.is_empty() {
            match self.unpack.step(&mut bytes) {
                Ok(plain) => self.push_plain(plain.bytes()).await?,
                Err(error) => return Err(self.not_unpacked(error).await),
            }
        }
        Ok(())
    }

    /// How far it is. Of a workbook only its bytes are known: a worker reads it.
    pub fn progress(&self) -> Progress {
        Progress {
            at: self.services.clock.now(),
            bytes: self.received,
            rows: self.file.rows(),
            errors: self.file.errors(),
        }
    }

    async fn not_unpacked(&mut self, error: UnpackError) -> UploadError {
        UploadError::Rejected(self.file.broken(None, error.code(), error.to_string()).await)
    }

    async fn push_plain(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        let Some(mut beginning) = self.beginning.take() else { return self.push_known(bytes).await };
        beginning.extend_from_slice(bytes);
        if beginning.len() < WORKBOOK.len() {
            self.beginning = Some(beginning);
            return Ok(());
        }
        if beginning.starts_with(&WORKBOOK) {
            self.workbook = Some(content::workbook(&self.services, &self.request.owner_name, self.id));
        }
        self.push_known(&beginning).await
    }

    /// Bytes of a file whose kind is known.
    async fn push_known(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        match &mut self.workbook {
            Some(workbook) => workbook.push(bytes).await?,
            None => self.file.push(bytes).await?,
        }
        self.received += bytes.len() as u64;
        self.is_small_enough().await?;
        for (_, fingerprint) in &mut self.fingerprints {
            fingerprint.update(bytes);
        }
        Ok(())
    }

    async fn is_small_enough(&mut self) -> Result<(), UploadError> {
        let most = self.request.pipeline.max_upload_bytes;
        if self.workbook.is_some() && self.received > most || self.file.is_too_large(self.received, most) {
            return Err(UploadError::TooLarge(TooLarge::Bytes(self.file.too_large(most).await)));
        }
        Ok(())
    }

    /// Something else was wrong, and the file becomes no batch: what is wrong with the file itself, if anything is.
    pub async fn abandon(mut self) -> Option<UploadError> {
        if let Err(error) = self.finish_unpacking().await {
            self.file.abort().await;
            return Some(error);
        }
        match self.content().await {
            Ok((content, _)) => {
                content.abort().await;
                None
            }
            Err(refused) => Some(refused),
        }
    }

    /// The file is complete: makes the batch, unless it has errors.
    ///
    /// # Errors
    /// [`UploadError::Rejected`] with the file's errors; nothing is left behind on any error.
    pub async fn finish(self, fields: UploadFields) -> Result<Accepted, UploadError> {
        let span = self.span.clone();
        self.end(fields).instrument(span).await
    }

    /// What is left of the file, where it is held back until more comes.
    async fn finish_unpacking(&mut self) -> Result<(), UploadError> {
        let rest = match self.unpack.finish() {
            Ok(rest) => rest,
            Err(error) => return Err(self.not_unpacked(error).await),
        };
        if !rest.is_empty() {
            self.push_plain(&rest).await?;
        }
        if let Some(beginning) = self.beginning.take() {
            self.push_known(&beginning).await?;
        }
        if self.workbook.is_none() {
            self.file.complete().await?;
        }
        self.is_small_enough().await
    }

    /// The file as a whole, unless it has errors, and what remains of the upload.
    async fn content(self) -> Result<(Content, Rest), UploadError> {
        let rest = Rest {
            services: self.services,
            request: self.request,
            id: self.id,
            secrets: self.secrets,
            earlier: self.earlier,
            fingerprints: self.fingerprints,
        };
        if let Some(workbook) = self.workbook {
            self.file.abort().await;
            return Ok((Content::Workbook(workbook, self.received), rest));
        }
        let (validated, writer) = self.file.finish().await?;
        Ok((Content::Rows(Box::new(validated), Box::new(writer)), rest))
    }

    async fn end(mut self, fields: UploadFields) -> Result<Accepted, UploadError> {
        if let Err(error) = self.finish_unpacking().await {
            self.file.abort().await;
            return Err(error);
        }
        let (mut content, rest) = self.content().await?;
        let ignored_columns = match &mut content {
            Content::Rows(validated, _) => std::mem::take(&mut validated.ignored_columns),
            Content::Workbook(..) => Vec::new(),
        };
        let accepted = rest.end(content, fields).await?;
        Ok(Accepted { ignored_columns, ..accepted })
    }
}

/// An upload whose file is complete.
struct Rest {
    services: Services,
    request: UploadRequest,
    id: BatchId,
    secrets: SecretsOf,
    earlier: Option<(Batch, Idempotency)>,
    fingerprints: Vec<(String, Fingerprinter)>,
}

impl Rest {
    async fn end(mut self, content: Content, fields: UploadFields) -> Result<Accepted, UploadError> {
        let prints: Vec<(String, [u8; 32])> = self
            .fingerprints
            .drain(..)
            .map(|(key_id, mut fingerprint)| {
                absorb_fields(&mut fingerprint, &self.request.pipeline, &fields);
                (key_id, fingerprint.finish())
            })
            .collect();
        if let Some((batch, promise)) = self.earlier {
            content.abort().await;
            return replay(batch, &promise, &prints);
        }
        if let Err(missing) = check_context(&self.request.pipeline, &fields) {
            content.abort().await;
            return Err(missing);
        }
        let promise = prints.first().and_then(|(key_id, print)| {
            let key = self.request.take_key(print)?;
            Some(Idempotency { key, key_id: key_id.clone(), fingerprint: print.to_vec() })
        });
        let Stored { path, bytes, validated } = content.store().await?;
        crash::point(crash::FILE_STORED);
        let services = self.services;
        let made = make_batch(
            &services,
            &self.request,
            Making { id: self.id, secrets: &self.secrets, validated, promise },
            fields,
            path.to_string(),
            bytes,
        )
        .await;
        match made {
            Ok(Created::New(batch)) => {
                enqueue_extraction(&services, &batch).await;
                Ok(Accepted { batch, replayed: false, ignored_columns: Vec::new() })
            }
            Ok(Created::Existing { batch, idempotency }) => {
                delete(&services, &path).await;
                replay(batch, &idempotency, &prints)
            }
            Err(NotMade { error, certainly }) => {
                // A batch that may have been made needs its file; `reconcile` finds one that nobody needs.
                if certainly {
                    delete(&services, &path).await;
                }
                Err(error.into())
            }
        }
    }
}

struct Making<'a> {
    id: BatchId,
    secrets: &'a SecretsOf,
    /// None for a workbook, which a worker validates.
    validated: Option<Box<Validated>>,
    promise: Option<Idempotency>,
}

async fn make_batch(
    services: &Services,
    request: &UploadRequest,
    making: Making<'_>,
    fields: UploadFields,
    object_key: String,
    file_bytes: u64,
) -> Result<Created, NotMade> {
    let now = services.clock.now();
    let pipeline = &request.pipeline;
    stored_definitions::save(services, pipeline, now).await?;
    let validated = making.validated;
    let header = validated
        .as_ref()
        .map(|validated| making.secrets.seal_json(SecretLocation::Header, &validated.header));
    let checkpoint = validated.as_ref().map_or_else(Checkpoint::default, |validated| Checkpoint {
        offset: validated.body_offset,
        line: validated.body_line,
        rows: 0,
    });
    let context = fields.context.map(|context| making.secrets.seal_json(SecretLocation::Context, &context));
    let batch = NewBatch {
        id: making.id,
        owner: request.owner,
        actor: request.actor.clone(),
        pipeline: pipeline.name.clone(),
        version: pipeline.version,
        name: fields.name,
        labels: fields.labels,
        object_key,
        file_bytes,
        unsealed: validated.is_none(),
        rows: validated.map(|validated| u32::try_from(validated.rows).unwrap_or(u32::MAX)),
        allow_failures: fields.allow_failures.unwrap_or(true),
        canary: fields.canary.or(pipeline.canary),
        callback_url: fields.callback_url,
        priority: fields.priority.unwrap_or(0),
        checkpoint,
        key: SealedKey { context, header, ..SealedKey::default() },
        idempotency: making.promise,
        upload: None,
        created_at: now,
    };
    create_batch(services, &request.owner_name, &pipeline.source, making.secrets, batch).await
}

pub(crate) async fn fingerprinters(
    services: &Services,
    earlier: Option<&str>,
) -> Result<Vec<(String, Fingerprinter)>, FlowError> {
    let mut all = vec![(String::new(), installation::fingerprinter(services).await?)];
    if let Some(id) = earlier.filter(|id| !id.is_empty()) {
        all.extend(
            services.keyring.get().fingerprint(id).map(|fingerprinter| (id.to_owned(), fingerprinter)),
        );
    }
    Ok(all)
}

pub(crate) fn replay(
    batch: Batch,
    promise: &Idempotency,
    prints: &[(String, [u8; 32])],
) -> Result<Accepted, UploadError> {
    let same = prints.iter().any(|(key_id, print)| {
        *key_id == promise.key_id && promise.fingerprint.as_slice() == print.as_slice()
    });
    if !same {
        return Err(UploadError::KeyReused);
    }
    Ok(Accepted { batch, replayed: true, ignored_columns: Vec::new() })
}
