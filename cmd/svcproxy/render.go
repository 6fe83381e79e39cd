package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"svcproxy/inspect"
	"svcproxy/iptables"
	"svcproxy/model"
	"svcproxy/nftables"
	"svcproxy/plan"
	"svcproxy/proxier"
)

// rendering is a ruleset of either backend.
type rendering interface {
	Text() string
	View() model.View
}

func newRender() *cobra.Command {
	var (
		paths    []string
		mode     string
		format   string
		family   string
		node     string
		settings settingFlags
	)
	c := &cobra.Command{
		Use:   "render -f PATH...",
		Short: "Print what would be programmed for manifests, without kernel and cluster",
		Long: `Render reads Services, EndpointSlices, Nodes and ServiceCIDRs from files and folders of YAML or JSON and prints
what would be programmed for them: as text that 'nft -f' or 'iptables-restore' loads, or as JSON in the form of
'svcproxy dump -o json'. The same input gives the same bytes. Session affinity in nftables is beyond nft's language:
its rules are remarks in the text, and what 'nft -f' loads balances without it.`,
		Example: "  svcproxy render --proxy-mode iptables -f manifests/ | iptables-restore --test",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if len(paths) == 0 {
				return usageError{errors.New("render: -f is missing: name the manifests")}
			}
			families, err := renderFamilies(mode, family)
			if err != nil {
				return err
			}
			s, err := settings.settings(mode)
			if err != nil {
				return err
			}
			if format != "text" && format != "json" {
				return unknown("output", format, "text or json")
			}
			objects, errs := proxier.LoadManifests(paths)
			for _, w := range objects.Warnings {
				fmt.Fprintln(c.ErrOrStderr(), "warning:", w)
			}
			if objects.Empty() && len(errs) > 0 {
				return errors.Join(errs...) // a ruleset of nothing might be loaded
			}
			if lacks := objects.Lacking(s, node); lacks != "" {
				fmt.Fprintln(c.ErrOrStderr(), "warning:", lacks)
			}
			if err := renderTo(c.OutOrStdout(), mode, format, families, func(f model.Family) *plan.Plan { return objects.Plan(f, s, canonicalNode(node)) }); err != nil {
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		},
	}
	flags := c.Flags()
	flags.StringArrayVarP(&paths, "filename", "f", nil, "file or folder of manifests; may be given more than once")
	flags.StringVar(&mode, "proxy-mode", "nftables", "backend to render for: nftables or iptables")
	flags.StringVarP(&format, "output", "o", "text", "form of the output: text or json")
	flags.StringVar(&family, "ip-family", "", "IP family to print: ipv4, ipv6 or all (default: ipv4 for iptables text, which has a program for each, else all)")
	flags.StringVar(&node, "hostname-override", "", "name of the Node to render for, for topology, traffic policies and node ports (default: none, which has no endpoints of its own)")
	settings.register(flags)
	return c
}

// renderFamilies returns the families to print. A text for iptables-restore can only have one.
func renderFamilies(mode, family string) ([]model.Family, error) {
	if mode != "nftables" && mode != "iptables" {
		return nil, unknown("proxy-mode", mode, "nftables or iptables")
	}
	switch family {
	case "ipv4":
		return []model.Family{model.IPv4}, nil
	case "ipv6":
		return []model.Family{model.IPv6}, nil
	case "all":
		return model.Families, nil
	case "":
		return nil, nil
	}
	return nil, unknown("ip-family", family, "ipv4, ipv6 or all")
}

func renderTo(w io.Writer, mode, format string, families []model.Family, plan func(model.Family) *plan.Plan) error {
	switch {
	case families != nil:
	case mode == "iptables" && format == "text":
		families = []model.Family{model.IPv4}
	default:
		families = model.Families
	}
	all := model.View{Backend: mode, Services: []model.ServiceView{}}
	for _, f := range families {
		r, err := render(mode, plan(f))
		if err != nil {
			return fmt.Errorf("rendering for %v: %w", f, err)
		}
		if format == "text" {
			if _, err := io.WriteString(w, r.Text()); err != nil {
				return err
			}
			continue
		}
		all.Services = append(all.Services, r.View().Services...)
	}
	if format == "text" {
		return nil
	}
	return inspect.Write(w, all, "json", inspect.Options{})
}

func render(mode string, p *plan.Plan) (rendering, error) {
	if mode == "iptables" {
		return iptables.Render(p)
	}
	return nftables.Render(p)
}
