package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"svcproxy/inspect"
	"svcproxy/iptables"
	"svcproxy/model"
	"svcproxy/nftables"
)

func newDump() *cobra.Command {
	var (
		mode    = "auto"
		format  string
		service string
		netns   string
	)
	c := &cobra.Command{
		Use:   "dump",
		Short: "Show what the kernel holds now, with or without a running svcproxy",
		Long: `Dump reads back what is programmed, by svcproxy in either mode or by kube-proxy in either mode, and shows
for each Service its addresses, its endpoints, and the share of new connections that each endpoint gets.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			formats := append(inspect.Formats(), "text")
			if format == "" {
				format = defaultFormat(c.OutOrStdout())
			}
			if !slices.Contains(formats, format) {
				return unknown("output", format, strings.Join(formats, ", "))
			}
			if err := checkNetns(netns); err != nil {
				return err
			}
			found, err := observe(c.Context(), mode, netns)
			if err != nil {
				return err
			}
			if format == "text" {
				if service != "" {
					return usageError{errors.New("dump: --service does not go with -o text, which is the whole ruleset")}
				}
				return writeText(c.OutOrStdout(), found)
			}
			view := found.view
			if service != "" {
				view = inspect.Filter(view, service)
				if len(view.Services) == 0 {
					return fmt.Errorf("dump: --service: no Service %q is programmed", service)
				}
			}
			return inspect.Write(c.OutOrStdout(), view, format, inspect.Options{Color: colour(c.OutOrStdout())})
		},
	}
	flags := c.Flags()
	flags.StringVar(&mode, "proxy-mode", mode, "what to read: auto (whatever is programmed), nftables or iptables")
	flags.StringVarP(&format, "output", "o", "", "form of the output: tree, table, json, yaml, dot, svg or text (default: tree on a terminal, else table)")
	flags.StringVar(&service, "service", "", "show only this Service, as NAMESPACE/NAME or NAMESPACE/NAME:PORT")
	flags.StringVar(&netns, "netns", "", "path of the network namespace to read (default: that of the process)")
	return c
}

func defaultFormat(w io.Writer) string {
	if isTerminal(w) {
		return "tree"
	}
	return "table"
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// colour tells whether to use colours on w; see no-color.org.
func colour(w io.Writer) bool { return isTerminal(w) && os.Getenv("NO_COLOR") == "" }

// observed is what one backend holds, both families together.
type observed struct {
	view  model.View
	texts []string
}

func (o *observed) add(v model.View, text string) {
	o.view.Services = append(o.view.Services, v.Services...)
	if text != "" {
		o.texts = append(o.texts, text)
	}
}

func writeText(w io.Writer, o *observed) error {
	if len(o.texts) == 0 {
		return errors.New("dump: svcproxy has programmed no Service")
	}
	_, err := io.WriteString(w, strings.Join(o.texts, ""))
	return err
}

// observe reads what is programmed. In mode auto it takes the first that holds a Service.
func observe(ctx context.Context, mode, netns string) (*observed, error) {
	readers := []func(context.Context, string) (*observed, error){observeNftables, observeIptables}
	switch mode {
	case "nftables":
		return observeNftables(ctx, netns)
	case "iptables":
		return observeIptables(ctx, netns)
	case "auto":
	default:
		return nil, unknown("proxy-mode", mode, "auto, nftables or iptables")
	}
	var errs []error
	for _, read := range readers {
		found, err := read(ctx, netns)
		switch {
		case err == nil && len(found.view.Services) > 0:
			return found, nil
		case err != nil && !errors.Is(err, iptables.ErrUnavailable):
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return &observed{view: model.View{Backend: "auto"}}, nil
}

// observeNftables reads svcproxy's tables, or kube-proxy's where svcproxy has none.
func observeNftables(ctx context.Context, netns string) (*observed, error) {
	found := &observed{view: model.View{Backend: "nftables"}}
	for _, f := range model.Families {
		o := nftables.Options{Family: f, NetNS: netns}
		r, err := nftables.Observe(ctx, o)
		if err != nil {
			return nil, fmt.Errorf("reading nftables, %v: %w", f, err)
		}
		if r.Rules() > 0 {
			found.add(r.View(), r.Text())
			continue
		}
		v, err := nftables.ObserveKubeProxy(ctx, o)
		if err != nil {
			return nil, fmt.Errorf("reading kube-proxy's nftables, %v: %w", f, err)
		}
		found.add(v, "")
	}
	return found, nil
}

// observeIptables reads the chains of svcproxy or kube-proxy, which have the same names. A family whose
// programs are missing holds nothing.
func observeIptables(ctx context.Context, netns string) (*observed, error) {
	found := &observed{view: model.View{Backend: "iptables"}}
	var errs []error
	missing := 0
	for _, f := range model.Families {
		r, err := iptables.Observe(ctx, iptables.Options{Family: f, NetNS: netns})
		if err != nil {
			errs = append(errs, fmt.Errorf("reading iptables, %v: %w", f, err))
			if errors.Is(err, iptables.ErrUnavailable) {
				missing++
			}
			continue
		}
		if v := r.View(); len(v.Services) > 0 {
			found.add(v, r.Text())
		}
	}
	if len(errs) == len(model.Families) || len(errs) > missing {
		return nil, errors.Join(errs...)
	}
	return found, nil
}
