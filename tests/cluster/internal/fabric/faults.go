package fabric

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	dialTimeout = 10 * time.Second
	// How long a packet may wait in a limited link before it is dropped.
	limitedQueueTime = 400 * time.Millisecond
	// What a limited link lets through at once, in bytes: no less than one packet.
	limitedBurst = 16 << 10
)

// No link of the fabric has this hardware address: what is sent to it is lost without a word, as in a real partition.
var nowhere = net.HardwareAddr{0x02, 0, 0, 0, 0, 0xff}

// SetPartition cuts the way between two hosts and their pods, or heals it. Both keep seeing all others.
func SetPartition(one, other *Place, cut bool) error {
	return errors.Join(one.setBlind(other.Host, cut), other.setBlind(one.Host, cut))
}

func (p *Place) setBlind(other Host, blind bool) error {
	neighbour := &netlink.Neigh{LinkIndex: p.link.Attrs().Index, IP: net.ParseIP(other.Address), Family: unix.AF_INET}
	if blind {
		neighbour.State, neighbour.HardwareAddr = netlink.NUD_PERMANENT, nowhere
		if err := p.links.NeighSet(neighbour); err != nil {
			return fmt.Errorf("hide %s from %s: %w", other.Name, p.Name, err)
		}
		return nil
	}
	if err := p.links.NeighDel(neighbour); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("show %s to %s again: %w", other.Name, p.Name, err)
	}
	return nil
}

// SetConnected pulls the host's cable, or plugs it in.
func (p *Place) SetConnected(connected bool) error {
	if connected {
		return p.fabric.links.LinkSetUp(p.port)
	}
	return p.fabric.links.LinkSetDown(p.port)
}

// SetRate limits the host's link in both directions, in bits per second; 0 lifts the limit.
func (p *Place) SetRate(bitsPerSecond uint64) error {
	return errors.Join(
		setRate(p.links, p.link, bitsPerSecond),
		setRate(p.fabric.links, p.port, bitsPerSecond),
	)
}

func setRate(links *netlink.Handle, link netlink.Link, bitsPerSecond uint64) error {
	bytesPerSecond := bitsPerSecond / 8
	attributes := netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
	if bitsPerSecond == 0 {
		err := links.QdiscDel(&netlink.GenericQdisc{QdiscAttrs: attributes, QdiscType: "tbf"})
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
			return nil // there was none
		}
		return err
	}
	limit := uint32(float64(bytesPerSecond)*limitedQueueTime.Seconds()) + limitedBurst
	return links.QdiscReplace(&netlink.Tbf{QdiscAttrs: attributes, Rate: bytesPerSecond, Limit: limit, Buffer: burstTicks(bytesPerSecond)})
}

// burstTicks is the burst in the kernel's unit: the time it takes at the given rate, in ticks.
func burstTicks(bytesPerSecond uint64) uint32 {
	return netlink.Xmittime(bytesPerSecond, limitedBurst)
}
