// Package controlplane runs svcproxy against a real API server: it builds etcd and kube-apiserver
// from their Go modules and starts them inside a network namespace.
package controlplane

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"svcproxy/sandbox"
)

// ServiceCIDR and ServiceCIDRv6 are where the API server allocates ClusterIPs.
const (
	ServiceCIDR   = "10.96.0.0/16"
	ServiceCIDRv6 = "fd00:10:96::/112"
)

const (
	adminToken = "admin-token"
	securePort = 6443
)

// A ControlPlane is an API server with its store.
type ControlPlane struct {
	Kubeconfig  string                // a file: cluster-admin by a bearer token
	Certificate string                // a file: who signed the API server's own
	Client      *kubernetes.Clientset // reaches the namespace from anywhere in this program

	certifiedFor netip.Addr
}

// StartControlPlane starts etcd and kube-apiserver inside ns, on their usual ports. The API server
// is reached at address, which ns must have; the Service default/kubernetes leads there. It returns
// when the API server says that it is ready.
func StartControlPlane(t testing.TB, ns *sandbox.Netns, address netip.Addr) *ControlPlane {
	t.Helper()
	dir := t.TempDir()
	key := filepath.Join(dir, "service-accounts.key")
	writeKey(t, key)
	tokens := filepath.Join(dir, "tokens.csv")
	writeFile(t, tokens, adminToken+`,admin,admin,"system:masters"`+"\n")
	certificates := filepath.Join(dir, "certificates")

	store := Start(t, ns, Program("etcd"),
		"--data-dir", filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--log-level", "warn",
		"--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
		"--listen-peer-urls", "http://127.0.0.1:2380")
	server := Start(t, ns, Program("kube-apiserver"),
		"--etcd-servers", "http://127.0.0.1:2379", "--cert-dir", certificates,
		"--secure-port", strconv.Itoa(securePort), "--bind-address", "0.0.0.0", "--advertise-address", address.String(),
		"--service-account-key-file", key, "--service-account-signing-key-file", key,
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-cluster-ip-range", ServiceCIDR+","+ServiceCIDRv6,
		"--token-auth-file", tokens, "--authorization-mode", "RBAC", "--disable-admission-plugins", "ServiceAccount")

	c := &ControlPlane{
		Kubeconfig:  filepath.Join(dir, "kubeconfig"),
		Certificate: filepath.Join(certificates, "apiserver.crt"),
	}
	// Client-go reads the certificate once. Kube-apiserver makes it first thing, and is done with it
	// when it makes the file of the key.
	Await(t, time.Minute, func() error {
		_, err := os.Stat(filepath.Join(certificates, "apiserver.key"))
		return err
	}, store, server)
	c.certifiedFor = address
	c.writeKubeconfig(t, c.Kubeconfig, netip.AddrPortFrom(address, securePort))
	c.connect(t, ns)
	Await(t, time.Minute, func() error {
		_, err := c.Client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(t.Context())
		return err
	}, store, server)
	return c
}

// KubeconfigFor writes a kubeconfig for those who reach the API server at another address than its own, and
// returns the file.
func (c *ControlPlane) KubeconfigFor(t testing.TB, at netip.AddrPort) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	c.writeKubeconfig(t, file, at)
	return file
}

func (c *ControlPlane) writeKubeconfig(t testing.TB, file string, at netip.AddrPort) {
	t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["local"] = &clientcmdapi.Cluster{
		Server:               "https://" + at.String(),
		TLSServerName:        c.certifiedFor.String(),
		CertificateAuthority: c.Certificate,
	}
	config.AuthInfos["admin"] = &clientcmdapi.AuthInfo{Token: adminToken}
	config.Contexts["local"] = &clientcmdapi.Context{Cluster: "local", AuthInfo: "admin"}
	config.CurrentContext = "local"
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
}

// connect makes a client whose sockets are opened inside ns.
func (c *ControlPlane) connect(t testing.TB, ns *sandbox.Netns) {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1 // a test waits for the server only
	config.Timeout = 10 * time.Second
	config.Dial = ns.Dial
	if c.Client, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
}

func writeKey(t testing.TB, file string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	writeFile(t, file, string(pem.EncodeToMemory(block)))
}

func writeFile(t testing.TB, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
