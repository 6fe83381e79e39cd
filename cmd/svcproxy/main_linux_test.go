package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"svcproxy/model"
	"svcproxy/test/nstest"
)

const kubeDNS = "../../examples/kube-dns.yaml"

func TestMain(m *testing.M) { nstest.Main(m) }

// run runs svcproxy with arguments and returns what it printed on its standard output.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out, problems bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&problems)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func mustRun(t *testing.T, args ...string) string {
	t.Helper()
	out, err := run(t, args...)
	if err != nil {
		t.Fatalf("svcproxy %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func TestRenderedRulesAreThoseOfKubeProxyAndLoad(t *testing.T) {
	text := mustRun(t, "render", "--proxy-mode", "iptables", "-f", kubeDNS)
	for _, rule := range []string{
		`-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "kube-system/kube-dns:dns-tcp cluster IP" -m tcp --dport 53 -j KUBE-SVC-ERIFXISQEP7F7OF4`,
		`-A KUBE-SVC-ERIFXISQEP7F7OF4 -m comment --comment "kube-system/kube-dns:dns-tcp -> 10.244.0.3:53" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-ZXMNUKOKXUTL2MK2
-A KUBE-SVC-ERIFXISQEP7F7OF4 -m comment --comment "kube-system/kube-dns:dns-tcp -> 10.244.0.4:53" -j KUBE-SEP-SF3LG62VAE5ALYDV`,
		`-A KUBE-SEP-ZXMNUKOKXUTL2MK2 -p tcp -m comment --comment "kube-system/kube-dns:dns-tcp" -m tcp -j DNAT --to-destination 10.244.0.3:53`,
	} {
		if !strings.Contains(text, rule+"\n") {
			t.Errorf("missing:\n%s\nin:\n%s", rule, text)
		}
	}
	ns := nstest.New(t)
	for _, program := range []string{"iptables-legacy-restore", "iptables-nft-restore"} {
		ns.RunInput(t, text, program, "--test")
	}
	ns.RunInput(t, mustRun(t, "render", "-f", kubeDNS), "nft", "-c", "-f", "-")
}

func TestRenderIsRepeatable(t *testing.T) {
	for _, mode := range []string{"nftables", "iptables"} {
		for _, format := range []string{"text", "json"} {
			args := []string{"render", "--proxy-mode", mode, "-o", format, "-f", kubeDNS}
			if first, second := mustRun(t, args...), mustRun(t, args...); first != second {
				t.Errorf("%s %s: two runs differ:\n%s\n%s", mode, format, first, second)
			}
		}
	}
}

func TestRenderNamesWhatIsWrongAndRendersTheRest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "services.yaml")
	text := `apiVersion: v1
kind: Service
metadata: {name: broken, namespace: default}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80, name: one}, {port: 70000, name: two}]}
---
apiVersion: v1
kind: Service
metadata: {name: whole, namespace: default}
spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := run(t, "render", "-f", file)
	if err == nil || !strings.Contains(err.Error(), file+", document 1: Service default/broken: spec.ports[1].port") {
		t.Errorf("got %v, want an error that names file, document, object and field", err)
	}
	if !strings.Contains(out, "default/whole") || strings.Contains(out, "default/broken") {
		t.Errorf("want the whole Service alone, got:\n%s", out)
	}
}

func TestDumpReadsWhatKubeProxyProgrammed(t *testing.T) {
	ns := nstest.New(t)
	ns.RunInput(t, `*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-ERIFXISQEP7F7OF4 - [0:0]
:KUBE-SEP-ZXMNUKOKXUTL2MK2 - [0:0]
:KUBE-SEP-SF3LG62VAE5ALYDV - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "kube-system/kube-dns:dns-tcp cluster IP" -m tcp --dport 53 -j KUBE-SVC-ERIFXISQEP7F7OF4
-A KUBE-SVC-ERIFXISQEP7F7OF4 -m comment --comment "kube-system/kube-dns:dns-tcp -> 10.244.0.3:53" -m statistic --mode random --probability 0.5 -j KUBE-SEP-ZXMNUKOKXUTL2MK2
-A KUBE-SVC-ERIFXISQEP7F7OF4 -m comment --comment "kube-system/kube-dns:dns-tcp -> 10.244.0.4:53" -j KUBE-SEP-SF3LG62VAE5ALYDV
-A KUBE-SEP-ZXMNUKOKXUTL2MK2 -p tcp -m comment --comment "kube-system/kube-dns:dns-tcp" -m tcp -j DNAT --to-destination 10.244.0.3:53
-A KUBE-SEP-SF3LG62VAE5ALYDV -p tcp -m comment --comment "kube-system/kube-dns:dns-tcp" -m tcp -j DNAT --to-destination 10.244.0.4:53
COMMIT
`, "iptables-restore")
	var got model.View
	if err := json.Unmarshal([]byte(mustRun(t, "dump", "--netns", ns.Path(), "-o", "json")), &got); err != nil {
		t.Fatal(err)
	}
	want := `{"backend":"iptables","services":[{"name":"kube-system/kube-dns:dns-tcp","protocol":"TCP","chain":"KUBE-SVC-ERIFXISQEP7F7OF4","frontends":[{"type":"ClusterIP","address":"10.96.0.10","port":53}],"endpoints":[{"chain":"KUBE-SEP-ZXMNUKOKXUTL2MK2","address":"10.244.0.3","port":53,"probability":0.5},{"chain":"KUBE-SEP-SF3LG62VAE5ALYDV","address":"10.244.0.4","port":53,"probability":0.5}]}]}`
	if text, err := json.Marshal(got); err != nil || string(text) != want {
		t.Errorf("got  %s, %v\nwant %s", text, err, want)
	}
}

func TestDumpOfAnUnknownServiceIsAnError(t *testing.T) {
	ns := nstest.New(t)
	if _, err := run(t, "dump", "--netns", ns.Path(), "--service", "default/none"); err == nil || !strings.Contains(err.Error(), "default/none") {
		t.Errorf("got %v, want an error that names the Service", err)
	}
}

func TestCleanupLeavesKubeProxysUnlessAsked(t *testing.T) {
	ns := nstest.New(t)
	ns.RunInput(t, `*mangle
:KUBE-PROXY-CANARY - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-MARK-DROP - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A PREROUTING -p tcp -m tcp --dport 1 -j ACCEPT
COMMIT
`, "iptables-restore")
	ns.Run(t, "nft", "add", "table", "ip", "kube-proxy")

	mustRun(t, "cleanup", "--netns", ns.Path())
	before := ns.Run(t, "iptables-save") + ns.Run(t, "nft", "list", "tables")
	for _, want := range []string{"-A KUBE-SERVICES", "KUBE-PROXY-CANARY", "table ip kube-proxy"} {
		if !strings.Contains(before, want) {
			t.Errorf("cleanup removed kube-proxy's %s", want)
		}
	}

	mustRun(t, "cleanup", "--all", "--netns", ns.Path())
	after := ns.Run(t, "iptables-save") + ns.Run(t, "nft", "list", "tables")
	for _, gone := range []string{"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-PROXY-CANARY", "kube-proxy"} {
		if strings.Contains(after, gone) {
			t.Errorf("cleanup --all left %s:\n%s", gone, after)
		}
	}
	for _, foreign := range []string{"KUBE-KUBELET-CANARY", "KUBE-MARK-DROP", "--dport 1 -j ACCEPT"} {
		if !strings.Contains(after, foreign) {
			t.Errorf("cleanup --all removed %s, which is not kube-proxy's", foreign)
		}
	}
}

func TestAModeSwitchLeavesNothingOfTheOtherMode(t *testing.T) {
	ns := nstest.New(t)
	ns.RunInput(t, "*nat\n-A PREROUTING -p tcp -m tcp --dport 1 -j ACCEPT\nCOMMIT\n", "iptables-restore")
	for _, mode := range []string{"nftables", "iptables", "nftables"} {
		ctx, cancel := context.WithCancel(t.Context())
		root := newRoot()
		root.SetArgs([]string{"run", "--manifests", kubeDNS, "--netns", ns.Path(), "--proxy-mode", mode, "--metrics-bind-address", "", "--log-level", "error"})
		done := make(chan error)
		go func() { done <- root.ExecuteContext(ctx) }()
		nstest.Eventually(t, 10*time.Second, func() error {
			rules := ns.Run(t, "iptables-save") + ns.Run(t, "ip6tables-save") + ns.Run(t, "nft", "list", "tables")
			for text, of := range map[string]string{"KUBE-SERVICES": "iptables", "table ip svcproxy": "nftables", "table ip6 svcproxy": "nftables"} {
				if strings.Contains(rules, text) != (mode == of) {
					return fmt.Errorf("in mode %s: %s in the rules is %t", mode, text, mode != of)
				}
			}
			if !strings.Contains(rules, "--dport 1 -j ACCEPT") {
				t.Errorf("a foreign rule is gone:\n%s", rules)
			}
			return nil
		})
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

func TestBadUsageIsToldApart(t *testing.T) {
	for _, args := range [][]string{
		{"rendr"}, {"render"}, {"render", "-f", kubeDNS, "--proxy-mode", "ipvs"}, {"render", "-f", kubeDNS, "-o", "xml"},
		{"dump", "extra"}, {"dump", "--nonsense"},
		{"run", "--kubeconfig", "a", "--manifests", "b"}, {"run", "--manifests", "b", "--proxy-mode", "ipvs"},
		{"run", "--manifests", "b", "--log-level", "loud"}, {"run", "--manifests", "b", "--sync-period", "0s"},
		{"run", "--manifests", ""}, {"run", "--manifests", "b", "--metrics-bind-address", "nonsense"},
		{"run", "--manifests", "b", "--metrics-bind-address", "127.0.0.1:99999"}, {"run", "--manifests", "b", "--kube-api-qps", "NaN"},
	} {
		_, err := run(t, args...)
		if usage := (usageError{}); !errors.As(err, &usage) {
			t.Errorf("svcproxy %s: got %v, want a usage error", strings.Join(args, " "), err)
		}
	}
}

// A ruleset of nothing, piped into iptables-restore, would be worse than none.
func TestRenderPrintsNothingWhereNothingCouldBeRead(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken.yaml")
	if err := os.WriteFile(broken, []byte("kind: [\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{filepath.Join(t.TempDir(), "missing.yaml"), broken} {
		for _, format := range []string{"text", "json"} {
			out, err := run(t, "render", "-f", file, "-o", format)
			if out != "" || err == nil || !strings.Contains(err.Error(), file) {
				t.Errorf("%s: got %q, %v", file, out, err)
			}
		}
	}
	if out, err := run(t, "render", "-f", filepath.Join(t.TempDir(), "missing.yaml"), "-f", kubeDNS); err == nil || !strings.Contains(out, "kube-dns") {
		t.Errorf("with one file of two: got %v and %q", err, out)
	}
	if out := mustRun(t, "render", "-f", t.TempDir()); out == "" {
		t.Error("an empty folder is a cluster without Services, but nothing was printed")
	}
}

func TestRenderSaysThatNodeCIDRLacksTheNode(t *testing.T) {
	for node, want := range map[string]string{"": "is not known", "n1": "has no spec.podCIDRs", "n2": ""} {
		file := filepath.Join(t.TempDir(), "nodes.yaml")
		text := "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: n2}\nspec: {podCIDRs: [10.244.2.0/24]}\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		root, problems := newRoot(), new(bytes.Buffer)
		root.SetArgs([]string{"render", "-f", file, "-f", kubeDNS, "--detect-local-mode", "NodeCIDR", "--hostname-override", node})
		root.SetOut(io.Discard)
		root.SetErr(problems)
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := problems.String(); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("for the Node %q: said %q, want %q", node, got, want)
		}
	}
}

func TestANamespaceThatCannotBeEnteredIsAnErrorInEveryMode(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none")
	for _, mode := range []string{"auto", "nftables", "iptables"} {
		for _, path := range []string{missing, "/proc/self/ns/mnt", "/etc/hostname"} {
			_, err := run(t, "run", "--manifests", t.TempDir(), "--metrics-bind-address", "", "--proxy-mode", mode, "--netns", path)
			if err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("--proxy-mode %s --netns %s: got %v, want an error that names the path", mode, path, err)
			}
		}
	}
	if _, err := openBackends("nftables", missing, zap.NewNop()); err == nil {
		t.Error("backends were opened in a namespace that does not exist")
	}
}

// withTools makes a PATH with nothing but the named programs.
func withTools(t *testing.T, programs ...string) {
	t.Helper()
	dir := t.TempDir()
	for _, p := range programs {
		found, err := exec.LookPath(p)
		if err == nil {
			err = os.Symlink(found, filepath.Join(dir, p))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
}

func TestWithoutIp6tablesDumpShowsIPv4(t *testing.T) {
	ns := nstest.New(t)
	withTools(t, "iptables", "iptables-save", "iptables-restore")
	if got := mustRun(t, "dump", "--netns", ns.Path(), "--proxy-mode", "iptables", "-o", "json"); got != `{"backend":"iptables","services":[]}`+"\n" {
		t.Errorf("got %s", got)
	}
}

func TestCleanupSaysWhatItCouldNotLookAt(t *testing.T) {
	ns := nstest.New(t)
	withTools(t)
	root, problems := newRoot(), new(bytes.Buffer)
	root.SetArgs([]string{"cleanup", "--netns", ns.Path()})
	root.SetErr(problems)
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(problems.String(), "iptables") {
		t.Errorf("nothing about iptables, which is missing, in %q", problems)
	}
}

func TestAMistypedCommandGetsAHint(t *testing.T) {
	if _, err := run(t, "dmp"); err == nil || !strings.Contains(err.Error(), "dump") {
		t.Errorf("got %v, want an error that names dump", err)
	}
}
