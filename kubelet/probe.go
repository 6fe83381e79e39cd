package kubelet

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
)

const (
	maxProbeOutput = 10 << 10
	userAgent      = "kube-probe/1.37"
)

// prober tries a handler once. The error says why it failed, in kubelet's words.
type prober struct {
	podIP     string
	container *v1.Container
	dial      func(ctx context.Context, network, address string) (net.Conn, error) // from the node
	exec      func(ctx context.Context, command []string) (output []byte, err error)
}

func (p *prober) try(ctx context.Context, h *v1.ProbeHandler, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case h.Exec != nil:
		out, err := p.exec(ctx, h.Exec.Command)
		if ctx.Err() != nil {
			return fmt.Errorf("command timed out: %q timed out after %s", h.Exec.Command, timeout)
		}
		if err != nil {
			if text := bytes.TrimSpace(out); len(text) > 0 {
				return errors.New(string(text))
			}
			return err
		}
		return nil
	case h.TCPSocket != nil:
		address, err := p.address(h.TCPSocket.Host, h.TCPSocket.Port.IntValue(), h.TCPSocket.Port.String())
		if err != nil {
			return err
		}
		conn, err := p.dial(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	case h.HTTPGet != nil:
		return p.get(ctx, h.HTTPGet)
	}
	return errors.New("the probe has no handler that is supported")
}

// address is host:port of a probe, where the port may be the name of a container's port.
func (p *prober) address(host string, number int, name string) (string, error) {
	if host == "" {
		host = p.podIP
	}
	if number == 0 {
		for _, port := range p.container.Ports {
			if port.Name == name {
				number = int(port.ContainerPort)
			}
		}
	}
	if number <= 0 || number > 65535 {
		return "", fmt.Errorf("container %s has no port %q", p.container.Name, name)
	}
	return net.JoinHostPort(host, strconv.Itoa(number)), nil
}

func (p *prober) get(ctx context.Context, h *v1.HTTPGetAction) error {
	address, err := p.address(h.Host, h.Port.IntValue(), h.Port.String())
	if err != nil {
		return err
	}
	scheme := "http"
	if h.Scheme == v1.URISchemeHTTPS {
		scheme = "https"
	}
	target, err := url.Parse(h.Path)
	if err != nil {
		target = &url.URL{Path: h.Path}
	}
	target.Scheme, target.Host = scheme, address
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return err
	}
	request.Header = http.Header{"User-Agent": {userAgent}, "Accept": {"*/*"}}
	for _, header := range h.HTTPHeaders {
		if http.CanonicalHeaderKey(header.Name) == "Host" {
			request.Host = header.Value
		}
		request.Header.Add(header.Name, header.Value)
	}
	transport := &http.Transport{
		DialContext:        p.dial,
		DisableKeepAlives:  true,
		DisableCompression: true,
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, // kubelet does not verify either
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: sameHost}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(response.Body, maxProbeOutput))
	if response.StatusCode < 200 || response.StatusCode >= 400 {
		return fmt.Errorf("HTTP probe failed with statuscode: %d", response.StatusCode)
	}
	return err
}

// sameHost follows redirects on one host only: one that leads elsewhere counts as an answer.
func sameHost(request *http.Request, via []*http.Request) error {
	if request.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	return nil
}
