package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"svcproxy/conntrack"
	"svcproxy/model"
	"svcproxy/proxier"
)

// runFlags are the flags of run. Those that kube-proxy has too have its names and defaults.
type runFlags struct {
	settingFlags
	sysctlFlags
	logFlags
	kubeconfig string
	manifests  []string
	mode       string
	hostname   string
	netns      string
	metrics    string
	minSync    time.Duration
	fullSync   time.Duration
	apiQPS     float32
	apiBurst   int
}

func newRun() *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use:   "run",
		Short: "Program the node, and keep it programmed",
		Long: `Run makes the Services of a cluster or of manifests work on this node until it is ended. What it
programmed stays when it ends; 'svcproxy cleanup' removes it.`,
		Example: `  svcproxy run --kubeconfig /etc/kubernetes/svcproxy.conf --cluster-cidr 10.244.0.0/16
  svcproxy run --manifests services/ --proxy-mode iptables`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c.Context()) },
	}
	flags := c.Flags()
	flags.StringVar(&f.kubeconfig, "kubeconfig", "", "file that leads to the API server (default: that of the cluster in which this runs as a pod)")
	flags.StringArrayVar(&f.manifests, "manifests", nil, "file or folder of manifests to serve instead of an API server's objects, watched; may be given more than once")
	flags.StringVar(&f.mode, "proxy-mode", "auto", "backend: auto (nftables where it works, else iptables), nftables or iptables")
	flags.StringVar(&f.hostname, "hostname-override", "", "name of this Node (default: the host's name)")
	flags.StringVar(&f.netns, "netns", "", "path of the network namespace to program (default: that of the process)")
	flags.StringVar(&f.metrics, "metrics-bind-address", "127.0.0.1:10249", "address of the metrics server, in the network namespace of the process; empty for none")
	flags.DurationVar(&f.minSync, "min-sync-period", proxier.DefaultMinSync, "least time between two changes of the rules")
	flags.DurationVar(&f.fullSync, "sync-period", proxier.DefaultFullSync, "time between two comparisons of all rules with the kernel")
	flags.Float32Var(&f.apiQPS, "kube-api-qps", 5, "most requests to the API server in a second")
	flags.IntVar(&f.apiBurst, "kube-api-burst", 10, "most requests to the API server at once")
	f.settingFlags.register(flags)
	f.sysctlFlags.register(flags)
	f.logFlags.register(flags)
	return c
}

func (f *runFlags) run(ctx context.Context) error {
	log, err := f.logger()
	if err != nil {
		return err
	}
	defer func() { _ = log.Sync() }()
	if _, err := f.settings(f.mode); err != nil {
		return err
	}
	if err := f.check(); err != nil {
		return err
	}
	if err := checkNetns(f.netns); err != nil {
		return err
	}
	node, err := f.nodeName()
	if err != nil {
		return err
	}
	source, err := f.source(node, log)
	if err != nil {
		return err
	}
	f.sysctlFlags.apply(f.netns, log) // before the iptables backend looks at one of them
	b, err := openBackends(f.mode, f.netns, log)
	if err != nil {
		return err
	}
	settings, err := f.settings(b.name)
	if err != nil {
		b.close()
		return err
	}
	if settings.Mode == proxier.NFTables && settings.NodePortAddresses.Localhost {
		log.Warn("--nodeport-addresses: localhost has no effect: node ports answer there in mode iptables alone")
	}
	metrics := proxier.NewMetrics()
	p, err := proxier.New(proxier.Options{
		Source: source, Backends: b.of, BackendName: b.name, Settings: settings, NodeName: node, NetNS: f.netns,
		MinSync: f.minSync, FullSync: f.fullSync, Metrics: metrics, Log: log, Conntrack: conntrack.NewNetlink(f.netns),
		Programmed: func(ctx context.Context, family model.Family) { cleanOther(ctx, b.name, family, f.netns, log) },
	})
	if err != nil {
		b.close()
		return err
	}
	log.Info("svcproxy starts", zap.String("version", versionString()), zap.String("mode", b.name), zap.String("node", node))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.Run(ctx) })
	group.Go(func() error { return serveMetrics(ctx, f.metrics, metrics, log) })
	return group.Wait()
}

// check finds flags whose values make no sense.
func (f *runFlags) check() error {
	switch {
	case f.kubeconfig != "" && len(f.manifests) > 0:
		return usageError{errors.New("--kubeconfig does not go with --manifests: there is one source")}
	case slices.Contains(f.manifests, ""):
		return usageError{errors.New("--manifests: empty: name a file or folder")}
	case f.minSync < 0:
		return usageError{fmt.Errorf("--min-sync-period: %v is negative", f.minSync)}
	case f.fullSync <= 0:
		return usageError{fmt.Errorf("--sync-period: %v is not positive", f.fullSync)}
	case !(f.apiQPS > 0): // also NaN
		return usageError{fmt.Errorf("--kube-api-qps: %v is not positive", f.apiQPS)}
	case f.apiBurst <= 0:
		return usageError{fmt.Errorf("--kube-api-burst: %d is not positive", f.apiBurst)}
	}
	return errors.Join(f.sysctlFlags.check(), checkAddress("--metrics-bind-address", f.metrics))
}

// checkAddress finds an address that nobody could listen at; empty is none.
func checkAddress(flag, address string) error {
	if address == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return usageError{fmt.Errorf("%s: %w", flag, err)}
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return usageError{fmt.Errorf("%s: %w", flag, err)}
	}
	return nil
}

// nodeName is the Node's name as kubelet derives it.
func (f *runFlags) nodeName() (string, error) {
	name := f.hostname
	if name == "" {
		var err error
		if name, err = os.Hostname(); err != nil {
			return "", fmt.Errorf("name of this node: %w; give --hostname-override", err)
		}
	}
	name = canonicalNode(name)
	if name == "" {
		return "", usageError{errors.New("--hostname-override: empty")}
	}
	return name, nil
}

// canonicalNode returns a host's name as kubelet makes a Node's of it.
func canonicalNode(name string) string { return strings.ToLower(strings.TrimSpace(name)) }

func (f *runFlags) source(node string, log *zap.Logger) (proxier.Source, error) {
	if len(f.manifests) > 0 {
		return proxier.NewManifestSource(f.manifests, log), nil
	}
	config, err := f.apiConfig()
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = f.apiQPS, f.apiBurst
	config.UserAgent = "svcproxy/" + versionString()
	return proxier.NewAPISource(config, node, log)
}

func (f *runFlags) apiConfig() (*rest.Config, error) {
	if f.kubeconfig != "" {
		config, err := clientcmd.BuildConfigFromFlags("", f.kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("--kubeconfig %s: %w", f.kubeconfig, err)
		}
		return config, nil
	}
	config, err := rest.InClusterConfig()
	if errors.Is(err, rest.ErrNotInCluster) {
		return nil, usageError{errors.New("no source: give --kubeconfig or --manifests, or run as a pod")}
	}
	if err != nil {
		return nil, fmt.Errorf("configuration from the cluster: %w", err)
	}
	return config, nil
}

// serveMetrics serves /metrics until ctx ends. An address that can't be used is reported and no more: the
// Services matter more.
func serveMetrics(ctx context.Context, address string, m *proxier.Metrics, log *zap.Logger) error {
	if address == "" {
		return nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Error("no metrics are served", zap.String("flag", "--metrics-bind-address"), zap.Error(err))
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		log.Error("no metrics are served any longer", zap.Error(err))
	}
	return nil
}
