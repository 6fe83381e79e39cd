package demo

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"svcproxy/kubelet"
	"svcproxy/model"
	"svcproxy/sandbox"
	"svcproxy/sandbox/image"
)

//go:embed manifests
var manifests embed.FS

var (
	kubeDNS = model.ServiceName{Namespace: "kube-system", Name: "kube-dns"}
	web     = model.ServiceName{Namespace: "default", Name: "web"}
	shop    = model.ServiceName{Namespace: "default", Name: "shop"}

	dnsPorts = []slicePort{{"dns", model.UDP, 53}, {"dns-tcp", model.TCP, 53}}
	webPorts = []slicePort{{"http", model.TCP, 8080}}
)

// cluster is a node with pods, a folder of manifests, and svcproxy between them.
type cluster struct {
	// dir holds the manifests, kubelet's folders are next to it.
	dir     string
	node    *sandbox.Node
	kubelet *kubelet.Kubelet
	client  *sandbox.Pod
	host    *sandbox.Host
	dnsPods []podSpec
	webPods []podSpec
	proxy   *exec.Cmd
	// ended gives the proxy's end once.
	ended   chan error
	log     syncBuffer
	closers []func() error
}

// newCluster builds a node, writes the manifests and starts the pods. The proxy is not started yet.
func newCluster(ctx context.Context) (_ *cluster, err error) {
	c := &cluster{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if c.dir, err = c.folder(); err != nil {
		return nil, err
	}
	if c.node, err = sandbox.NewNode(sandbox.NodeConfig{Name: "node"}); err != nil {
		return nil, err
	}
	c.closers = append(c.closers, c.node.Close)
	if err := c.startKubelet(); err != nil {
		return nil, err
	}
	c.dnsPods = pods("kube-system", "coredns-", 3, 2)
	c.webPods = pods("default", "web-", 5, 3)
	client := pods("default", "client-", 8, 1)[0]
	host := sandbox.HostConfig{Name: "outside", Addrs: []netip.Addr{netip.MustParseAddr(hostAddress)}}
	if c.host, err = c.node.AddHost(host); err != nil {
		return nil, err
	}
	if err := c.writeManifests(); err != nil {
		return nil, err
	}
	for _, p := range c.dnsPods {
		if err := c.kubelet.Apply(c.dnsPod(p)); err != nil {
			return nil, err
		}
	}
	for _, p := range c.webPods {
		if err := c.kubelet.Apply(webPod(p)); err != nil {
			return nil, err
		}
	}
	if err := c.kubelet.Apply(clientPod(client)); err != nil {
		return nil, err
	}
	if err := c.awaitPods(ctx); err != nil {
		return nil, err
	}
	c.client = c.node.Pod(client.String())
	return c, nil
}

// pods names n pods and gives them addresses from 10.244.0.first on, and IPv6 ones where the kernel has IPv6.
func pods(namespace, prefix string, first, n int) []podSpec {
	var out []podSpec
	for i := range n {
		p := podSpec{namespace: namespace, name: prefix + string(rune('a'+i)), addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 0, byte(first + i)})}}
		if sandbox.HasIPv6() {
			p.addrs = append(p.addrs, netip.MustParseAddr(fmt.Sprintf("fd00:10:244::%d", first+i)))
		}
		out = append(out, p)
	}
	return out
}

// folder makes a place for the manifests that goes with the mount namespace, however the demo ends.
func (c *cluster) folder() (string, error) {
	place := "/mnt"
	if err := unix.Mount("svcproxy-demo", place, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		if place, err = os.MkdirTemp("", "svcproxy-demo-"); err != nil {
			return "", fmt.Errorf("making a folder for the manifests: %w", err)
		}
		c.closers = append(c.closers, func() error { return image.RemoveAll(place) })
	}
	dir := filepath.Join(place, "manifests")
	if err := errors.Join(os.Chmod(place, 0o755), os.Mkdir(dir, 0o755)); err != nil {
		return "", err
	}
	return dir, nil
}

func (c *cluster) writeManifests() error {
	entries, err := fs.ReadDir(manifests, "manifests")
	if err != nil {
		return err
	}
	for _, e := range entries {
		data, err := fs.ReadFile(manifests, "manifests/"+e.Name())
		if err != nil {
			return err
		}
		if err := c.write(e.Name(), data); err != nil {
			return err
		}
	}
	for _, service := range []model.ServiceName{web, shop} {
		if err := c.writeSlices(service, webPorts, c.webPods); err != nil {
			return err
		}
	}
	return c.writeSlices(kubeDNS, dnsPorts, c.dnsPods)
}

// writeSlices tells which pods are behind a Service, as the cluster's slice controller would.
func (c *cluster) writeSlices(service model.ServiceName, ports []slicePort, pods []podSpec) error {
	return c.write(service.Name+"-slices.yaml", []byte(endpointSlices(service, ports, pods)))
}

// write replaces a manifest in one step, so that nobody reads half of it.
func (c *cluster) write(name string, data []byte) error {
	tmp := filepath.Join(c.dir, "."+name)
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(c.dir, name))
}

// startProxy runs svcproxy on the node, as an operator would.
func (c *cluster) startProxy(mode string) error {
	c.proxy = &exec.Cmd{Path: self, Dir: c.dir, Stdout: &c.log, Stderr: &c.log, Args: []string{
		"svcproxy", "run", "--manifests", ".", "--proxy-mode", mode, "--hostname-override", "node",
		"--cluster-cidr", "10.244.0.0/16,fd00:10:244::/64",
	}}
	if err := c.node.Start(c.proxy); err != nil {
		return fmt.Errorf("starting svcproxy run: %w", err)
	}
	c.ended = make(chan error, 1)
	go func() { c.ended <- c.proxy.Wait() }()
	return nil
}

// stopProxy asks svcproxy to end and waits for it. What it programmed stays.
func (c *cluster) stopProxy() error {
	if c.ended == nil {
		return nil
	}
	if err := c.proxy.Process.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping svcproxy run: %w", err)
	}
	if err := <-c.ended; err != nil {
		return fmt.Errorf("svcproxy run: %w", err)
	}
	return nil
}

// onNode runs a shell command line on the node and returns what it printed.
func (c *cluster) onNode(ctx context.Context, line string) (string, error) {
	return c.shell(ctx, c.node.Netns, line)
}

// onClient runs a shell command line in the client pod.
func (c *cluster) onClient(ctx context.Context, line string) (string, error) {
	return c.shell(ctx, c.client.Netns, line)
}

// onHost runs a shell command line on the host outside.
func (c *cluster) onHost(ctx context.Context, line string) (string, error) {
	return c.shell(ctx, c.host.Netns, line)
}

// shell runs a command line in the folder of the manifests. In it, svcproxy is this program.
func (c *cluster) shell(ctx context.Context, ns *sandbox.Netns, line string) (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding this program: %w", err)
	}
	var out, problems bytes.Buffer
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", `svcproxy() { "$SVCPROXY_SELF" "$@"; }; `+line)
	cmd.Env = append(os.Environ(), "SVCPROXY_SELF="+program)
	cmd.Dir = c.dir
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := ns.Start(cmd); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(problems.String()))
	}
	return out.String(), nil
}

func (c *cluster) close() error {
	errs := []error{c.stopProxy()}
	for _, f := range slices.Backward(c.closers) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// syncBuffer collects what several processes print.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
