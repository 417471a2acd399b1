//! Packages for hosts that have none, from the coordinator's `package_dir`.

use std::{
    fs,
    io::Read,
    path::{Component, Path},
};

use grayfin_proto::v1::{FetchPackageRequest, PackageChunk};
use grayfin_types::{Code, HostId};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::server::status;

/// One piece; what the contract allows.
const PIECE: usize = 1 << 20;

/// Pieces that wait for the host agent: 4 MiB of memory per transfer.
const AHEAD: usize = 4;

/// Streams a package. The digest that the plan pins is checked while it is read: a package that is
/// another one ends with an error instead of its end, and the host agent checks it again anyway.
pub(crate) async fn fetch(
    host: &HostId,
    dir: Option<&Path>,
    request: &FetchPackageRequest,
) -> Result<ReceiverStream<Result<PackageChunk, Status>>, Status> {
    let missing = |why: &str| status::of(Code::PackageMissing, tonic::Code::NotFound, why);
    let dir = dir.ok_or_else(|| {
        missing("this coordinator serves no packages: set `package_dir` in its configuration, or put the package on the host")
    })?;
    let name = Path::new(&request.file);
    let plain = matches!(name.components().collect::<Vec<_>>()[..], [Component::Normal(only)] if only == request.file.as_str());
    if !plain {
        return Err(status::of(
            Code::BadRequest,
            tonic::Code::InvalidArgument,
            "a package is asked for by its plain file name",
        ));
    }
    let path = dir.join(name);
    let opened = tokio::task::spawn_blocking({
        let path = path.clone();
        move || fs::File::open(path)
    })
    .await
    .map_err(|e| Status::internal(e.to_string()))?;
    let file = opened.map_err(|e| missing(&format!("`{}`: {e}", path.display())))?;
    tracing::info!(%host, package = request.file, "package is fetched");
    let (out, stream) = mpsc::channel(AHEAD);
    let wanted = request.sha256.clone();
    tokio::task::spawn_blocking(move || send_file(file, &wanted, &out));
    Ok(ReceiverStream::new(stream))
}

fn send_file(mut file: fs::File, wanted: &str, out: &mpsc::Sender<Result<PackageChunk, Status>>) {
    let mut digest = Sha256::new();
    loop {
        let mut data = vec![0; PIECE];
        match file.read(&mut data) {
            Ok(0) => break,
            Ok(count) => {
                data.truncate(count);
                digest.update(&data);
                if out.blocking_send(Ok(PackageChunk { data })).is_err() {
                    return;
                }
            }
            Err(error) => {
                let failed = Status::data_loss(format!("read the package: {error}"));
                // Whoever does not listen any more needs no reason.
                drop(out.blocking_send(Err(failed)));
                return;
            }
        }
    }
    let found: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found != wanted {
        let why = format!("the coordinator's package has SHA-256 {found}, the plan pins {wanted}");
        let differs = status::of(Code::PackageDiffers, tonic::Code::FailedPrecondition, &why);
        drop(out.blocking_send(Err(differs)));
    }
}
