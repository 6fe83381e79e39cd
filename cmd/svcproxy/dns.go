package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"svcproxy/dns"
	"svcproxy/proxier/clusterdns"
)

func newDNS() *cobra.Command {
	c := &cobra.Command{
		Use:   "dns",
		Short: "Serve the names of a cluster's Services, or check a server that does",
		Args:  cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			return usageError{fmt.Errorf("dns: unknown command %q: want serve or check", args[0])}
		},
	}
	c.AddCommand(newDNSServe(), newDNSCheck())
	return c
}

// zoneFlags say what zone there is, and of which objects.
type zoneFlags struct {
	kubeconfig string
	manifests  []string
	domain     string
	ttl        time.Duration
	reverse    []string
	pods       string
}

func (f *zoneFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.kubeconfig, "kubeconfig", "", "file that leads to the API server (default: that of the cluster in which this runs as a pod)")
	flags.StringArrayVar(&f.manifests, "manifests", nil, "file or folder of manifests instead of an API server's objects; may be given more than once")
	flags.StringVar(&f.domain, "cluster-domain", "cluster.local", "the cluster's domain")
	flags.DurationVar(&f.ttl, "ttl", dns.DefaultTTL, "how long answers may be kept, in whole seconds")
	flags.StringSliceVar(&f.reverse, "reverse", nil, "ranges whose reverse names are all this zone's: the cluster's Service and pod ranges")
	flags.StringVar(&f.pods, "pods", "insecure", "names of pods, such as 10-244-0-7.default.pod: disabled, insecure (whatever spells an address) or verified (pods that exist; with an API server)")
}

func (f *zoneFlags) config() (dns.Config, error) {
	c := dns.Config{Domain: f.domain, TTL: f.ttl, Serial: uint32(time.Now().Unix())}
	switch f.pods {
	case "disabled":
	case "insecure":
		c.Pods = dns.PodsInsecure
	case "verified":
		c.Pods = dns.PodsVerified
	default:
		return c, unknown("pods", f.pods, "disabled, insecure or verified")
	}
	if len(f.manifests) > 0 && c.Pods == dns.PodsVerified {
		return c, usageError{errors.New("--pods: verified needs an API server, manifests have no pods")}
	}
	for _, text := range f.reverse {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return c, usageError{fmt.Errorf("--reverse: %w", err)}
		}
		c.Reverse = append(c.Reverse, p)
	}
	return c, nil
}

func (f *zoneFlags) source(log *zap.Logger) (clusterdns.Source, error) {
	if len(f.manifests) > 0 {
		if f.kubeconfig != "" {
			return nil, usageError{errors.New("--kubeconfig does not go with --manifests: there is one source")}
		}
		return clusterdns.NewManifests(f.manifests, log), nil
	}
	run := runFlags{kubeconfig: f.kubeconfig}
	config, err := run.apiConfig()
	if err != nil {
		return nil, err
	}
	config.UserAgent = "svcproxy/" + versionString()
	return clusterdns.NewAPI(config, f.pods == "verified", log)
}

// checkFlags are the flags of check.
type checkFlags struct {
	zoneFlags
	server  string
	netns   string
	output  string
	timeout time.Duration
}

// follow gets the objects once.
func (f *checkFlags) follow(ctx context.Context, config dns.Config) (*clusterdns.Follower, error) {
	follower, err := clusterdns.NewFollower(config, zap.NewNop())
	if err != nil {
		return nil, usageError{err}
	}
	if len(f.manifests) > 0 {
		objects, err := clusterdns.LoadManifests(f.manifests)
		if err != nil {
			return nil, err
		}
		follower.Apply(objects)
		return follower, nil
	}
	source, err := f.source(zap.NewNop())
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(ctx, f.timeout)
	defer stop()
	got := false
	err = source.Run(ctx, func(c clusterdns.Changes) {
		if !got {
			got = true
			follower.Apply(c)
			stop()
		}
	})
	if !got {
		return nil, fmt.Errorf("the API server's objects: %w", err)
	}
	return follower, nil
}
