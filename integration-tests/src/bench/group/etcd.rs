//! Three members of etcd, as the distribution has them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use grayfin_proto::tls::Files;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use tokio::process::{Child, Command};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use super::{Group, until_led};
use crate::Lab;

/// Last bytes of the members' addresses, less one.
const FIRST_LAST: u8 = 200;

#[derive(Clone, PartialEq, prost::Message)]
struct Compare {
    /// 0: equal.
    #[prost(int32, tag = "1")]
    result: i32,
    /// 1: the revision in which the key was made.
    #[prost(int32, tag = "2")]
    target: i32,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
    #[prost(int64, optional, tag = "5")]
    create_revision: Option<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Put {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RequestOp {
    #[prost(message, optional, tag = "2")]
    put: Option<Put>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TxnRequest {
    #[prost(message, repeated, tag = "1")]
    compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    success: Vec<RequestOp>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TxnResponse {
    #[prost(bool, tag = "2")]
    succeeded: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

/// Members, ended when this is dropped.
pub(super) struct Etcd {
    folder: PathBuf,
    pki: PathBuf,
    addresses: Vec<String>,
    members: Vec<Option<Child>>,
    channels: Vec<Channel>,
    keys: u64,
}

impl Etcd {
    /// Starts three on addresses of the lab's range, with the lab's certificates.
    pub(super) async fn start(lab: &Lab, folder: &Path) -> anyhow::Result<Self> {
        let there = Command::new("etcd").arg("--version").stdout(Stdio::null()).status().await;
        ensure!(
            there.is_ok_and(|status| status.success()),
            "`etcd` is missing: `apt-get install etcd-server` (Debian), then run this again"
        );
        std::fs::create_dir_all(folder)?;
        let pki = lab.paths().pki();
        let range = lab.topology().range;
        let addresses: Vec<String> =
            (1..=3).map(|number| range.address(FIRST_LAST + number)).collect();
        let files = Files {
            ca: pki.join("ca.pem"),
            cert: pki.join("operator.pem"),
            key: pki.join("operator.key"),
        };
        let channels = addresses.iter().map(|it| files.channel(&format!("{it}:2379")));
        let channels = channels.collect::<Result<_, _>>()?;
        let members = vec![None, None, None];
        let folder = folder.to_owned();
        certify(&pki, &folder, &addresses)?;
        let mut etcd = Self { folder, pki, addresses, members, channels, keys: 0 };
        for at in 0..3 {
            etcd.run(at)?;
        }
        etcd.leader().await?;
        Ok(etcd)
    }

    fn run(&mut self, at: usize) -> anyhow::Result<()> {
        let address = self.addresses.get(at).context("three members")?;
        let (client, peer) = (format!("https://{address}:2379"), format!("https://{address}:2380"));
        let named = self.addresses.iter().enumerate();
        let all: Vec<String> = named.map(|(n, it)| format!("e{n}=https://{it}:2380")).collect();
        let name = format!("e{at}");
        let log = File::create(self.folder.join(format!("{name}.log")))?;
        let mut command = Command::new("etcd");
        command.args(["--name", &name, "--initial-cluster", &all.join(",")]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.arg("--client-cert-auth").arg("--data-dir").arg(self.folder.join(&name));
        command.arg("--cert-file").arg(self.pki.join(format!("coordinator{}.pem", at + 1)));
        command.arg("--key-file").arg(self.pki.join(format!("coordinator{}.key", at + 1)));
        command.arg("--trusted-ca-file").arg(self.pki.join("ca.pem"));
        command.arg("--peer-client-cert-auth").arg("--peer-trusted-ca-file");
        command.arg(self.pki.join("ca.pem"));
        command.arg("--peer-cert-file").arg(self.folder.join("peer.pem"));
        command.arg("--peer-key-file").arg(self.folder.join("peer.key"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let child = command.spawn().context("start `etcd`")?;
        *self.members.get_mut(at).context("three members")? = Some(child);
        Ok(())
    }
}

/// Makes the certificate by which members know each other: etcd wants their addresses in it.
fn certify(pki: &Path, folder: &Path, addresses: &[String]) -> anyhow::Result<()> {
    let ca_key = KeyPair::from_pem(&std::fs::read_to_string(pki.join("ca.key"))?)?;
    let ca = std::fs::read_to_string(pki.join("ca.pem"))?;
    let issuer = Issuer::from_ca_cert_pem(&ca, ca_key)?;
    // A member is seen as coming from the loopback's first address.
    let mut names = addresses.to_vec();
    names.push("127.0.0.1".to_owned());
    let mut params = CertificateParams::new(names)?;
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    std::fs::write(folder.join("peer.pem"), params.signed_by(&key, &issuer)?.pem())?;
    std::fs::write(folder.join("peer.key"), key.serialize_pem())?;
    Ok(())
}

async fn call<Q, A>(channel: Channel, path: &'static str, question: Q) -> Result<A, String>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| error.to_string())?;
    let codec: ProstCodec<Q, A> = ProstCodec::default();
    let request = tonic::Request::new(question);
    let answer = grpc.unary(request, PathAndQuery::from_static(path), codec).await;
    answer.map(tonic::Response::into_inner).map_err(|status| status.to_string())
}

impl Group for Etcd {
    async fn leader(&mut self) -> anyhow::Result<usize> {
        let channels = &self.channels;
        until_led("a member of etcd to lead", async |at| {
            let path = "/etcdserverpb.Maintenance/Status";
            let asked = call(channels.get(at)?.clone(), path, StatusRequest {}).await;
            let status: StatusResponse = asked.ok()?;
            let own = status.header?.member_id;
            (own == status.leader && own != 0).then_some(at)
        })
        .await
    }

    async fn write(&mut self, at: usize) -> Result<(), String> {
        self.keys += 1;
        let key = format!("hold/{}", self.keys).into_bytes();
        let absent = Compare { result: 0, target: 1, key: key.clone(), create_revision: Some(0) };
        let put = RequestOp { put: Some(Put { key, value: vec![b'x'; 200] }) };
        let question = TxnRequest { compare: vec![absent], success: vec![put] };
        let channel = self.channels.get(at).ok_or("three members")?.clone();
        let answer: TxnResponse = call(channel, "/etcdserverpb.KV/Txn", question).await?;
        if answer.succeeded { Ok(()) } else { Err("the key was there".to_owned()) }
    }

    async fn kill(&mut self, at: usize) -> anyhow::Result<()> {
        let member = self.members.get_mut(at).and_then(Option::take);
        member.context("it runs")?.kill().await.context("kill a member of etcd")
    }

    async fn restart(&mut self, at: usize) -> anyhow::Result<()> {
        self.run(at)?;
        let channel = self.channels.get(at).context("three members")?.clone();
        crate::wait::until("the member to follow", super::FAILOVER_LIMIT, || async {
            let path = "/etcdserverpb.Maintenance/Status";
            let asked = call(channel.clone(), path, StatusRequest {}).await;
            let status: StatusResponse = asked?;
            if status.leader == 0 { Err("it knows no leader".to_owned()) } else { Ok(()) }
        })
        .await
    }

    async fn served(&mut self, _by: usize) -> anyhow::Result<bool> {
        Ok(false)
    }
}
