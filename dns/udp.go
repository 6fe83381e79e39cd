package dns

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
	"go.uber.org/zap"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const (
	// maxQuery is the longest query that is read over UDP, in bytes.
	maxQuery = 4096
	// maxPackets is how many queries of a UDP socket are answered at once; more are dropped, and their clients ask again.
	maxPackets = 4096
)

// past is a deadline that ends what waits.
var past = time.Unix(1, 0)

// udpServer serves one UDP socket.
type udpServer struct {
	server    *Server
	conn      net.PacketConn
	answering context.Context // ends when answers are not waited for any longer
}

func (u *udpServer) serve(ctx context.Context) error {
	defer u.conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = u.conn.SetReadDeadline(past) })
	defer stop()
	if c, ok := u.conn.(*net.UDPConn); ok {
		// So that an answer goes out from the address that was asked; a socket of one family has one of these.
		_ = ipv6.NewPacketConn(c).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
		_ = ipv4.NewPacketConn(c).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
	}
	slots := make(chan struct{}, maxPackets)
	var wg sync.WaitGroup
	buffer := make([]byte, maxQuery)
	for {
		n, from, err := u.read(buffer)
		if ctx.Err() != nil {
			return wait(&wg)
		}
		if err != nil {
			return err
		}
		select {
		case slots <- struct{}{}:
		default:
			u.server.Metrics.drop("too many")
			continue
		}
		packet := append([]byte(nil), buffer[:n]...)
		wg.Go(func() {
			defer func() { <-slots }()
			u.answer(packet, from)
		})
	}
}

// peer is who sent a packet, and to which address.
type peer struct {
	session *mdns.SessionUDP
	addr    net.Addr
}

func (u *udpServer) read(buffer []byte) (int, peer, error) {
	if c, ok := u.conn.(*net.UDPConn); ok {
		n, session, err := mdns.ReadFromSessionUDP(c, buffer)
		if err != nil {
			return 0, peer{}, err
		}
		return n, peer{session: session, addr: session.RemoteAddr()}, nil
	}
	n, addr, err := u.conn.ReadFrom(buffer)
	return n, peer{addr: addr}, err
}

func (u *udpServer) answer(packet []byte, to peer) {
	// Nobody can be answered at port 0.
	if a, err := netip.ParseAddrPort(to.addr.String()); err == nil && a.Port() == 0 {
		u.server.Metrics.drop("port 0")
		return
	}
	reply := u.server.handle(u.answering, packet, true)
	if reply == nil {
		return
	}
	var err error
	if c, ok := u.conn.(*net.UDPConn); ok {
		_, err = mdns.WriteToSessionUDP(c, reply, to.session)
	} else {
		_, err = u.conn.WriteTo(reply, to.addr)
	}
	if err != nil {
		u.server.log().Debug("DNS reply not sent", zap.Stringer("client", to.addr), zap.Error(err))
	}
}
