package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"svcproxy/cluster"
	"svcproxy/dns"
	"svcproxy/netns"
)

func newDNSCheck() *cobra.Command {
	var f checkFlags
	c := &cobra.Command{
		Use:   "check --server ADDRESS",
		Short: "Ask a server all that the specification demands for the current Services",
		Long: `Check asks a DNS server, over UDP and TCP, for every record that the Kubernetes DNS-based service discovery
specification 1.1.0 demands for the Services there are, and for names that must not exist, and shows each answer that
is another one. It exits with 1 if there is any. TTLs, the order of records, weights and the names of endpoints without
a hostname are the server's own matter.`,
		Example: `  svcproxy dns check --server 10.96.0.10 --kubeconfig ~/.kube/config
  svcproxy dns check --server 127.0.0.1:5353 --manifests services/`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	flags := c.Flags()
	f.register(flags)
	flags.StringVar(&f.server, "server", "", "address of the server, with :PORT if that is not 53; must be given")
	flags.StringVar(&f.netns, "netns", "", "path of the network namespace to ask from (default: that of the process)")
	flags.StringVarP(&f.output, "output", "o", "table", "form: table or json")
	flags.DurationVar(&f.timeout, "timeout", 30*time.Second, "how long the API server may take")
	return c
}

func (f *checkFlags) run(c *cobra.Command) error {
	server, err := parseServer(f.server)
	if err != nil {
		return usageError{fmt.Errorf("--server: %w", err)}
	}
	if f.output != "table" && f.output != "json" {
		return unknown("output", f.output, "table or json")
	}
	config, err := f.config()
	if err != nil {
		return err
	}
	if err := checkNetns(f.netns); err != nil {
		return err
	}
	follower, err := f.follow(c.Context(), config)
	if err != nil {
		return err
	}
	services := follower.Services()
	asked, differences, err := dns.Check(c.Context(), follower.Zone(), services, dns.CheckOptions{Server: server, Dial: f.dial})
	if err != nil {
		return err
	}
	if err := f.print(c, server, len(services), asked, differences); err != nil {
		return err
	}
	if len(differences) > 0 {
		return fmt.Errorf("%d of %d answers of %s differ from the specification", len(differences), asked, server)
	}
	return nil
}

func (f *checkFlags) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = netns.Do(f.netns, func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

func (f *checkFlags) print(c *cobra.Command, server netip.AddrPort, services, asked int, differences []dns.Difference) error {
	if f.output == "json" {
		encoder := json.NewEncoder(c.OutOrStdout())
		encoder.SetIndent("", "  ")
		if differences == nil {
			differences = []dns.Difference{}
		}
		return encoder.Encode(struct {
			Server      string           `json:"server"`
			Services    int              `json:"services"`
			Questions   int              `json:"questions"`
			Differences []dns.Difference `json:"differences"`
		}{server.String(), services, asked, differences})
	}
	if len(differences) == 0 {
		fmt.Fprintf(c.OutOrStdout(), "%s answers all %d questions about %d Services as the specification demands\n", server, asked, services)
		return nil
	}
	var rows [][]string
	for _, d := range differences {
		rows = append(rows, []string{d.Name, d.Type, d.Transport, d.Want, d.Got})
	}
	return cluster.PrintRows(c.OutOrStdout(), []string{"NAME", "TYPE", "OVER", "WANT", "GOT"}, rows)
}

// parseServer reads ADDRESS or ADDRESS:PORT.
func parseServer(text string) (netip.AddrPort, error) {
	if text == "" {
		return netip.AddrPort{}, errors.New("must be given")
	}
	const domainPort = 53
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(addr, domainPort), nil
	}
	return netip.ParseAddrPort(text)
}
