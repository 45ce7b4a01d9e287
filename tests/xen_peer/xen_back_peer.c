/* A blkif back made of Xen's macros over a disk in its own memory.
 *
 * Serves --ops requests, answering each batch in a random order, then prints one line
 * of JSON.  Exit: 0 good, 2 usage, 3 protocol, 4 hang.
 */
#include "peer.h"

static struct peer peer;
static struct blkif_back_ring back;
static uint8_t *disk;

static void move_sectors(uint8_t op, uint64_t sector, uint8_t *bytes, size_t size)
{
    if (op == BLKIF_OP_READ)
        memcpy(bytes, disk + sector * SECTOR, size);
    else
        memcpy(disk + sector * SECTOR, bytes, size);
}

static int16_t serve_segments(uint8_t op, uint64_t sector,
                              const struct blkif_request_segment *segs, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        uint64_t n = segs[i].last_sect - segs[i].first_sect + 1u;
        if (segs[i].gref >= (uint64_t)peer.data_pages || segs[i].last_sect >= PAGE_SECTORS ||
            segs[i].first_sect > segs[i].last_sect || sector + n > (uint64_t)peer.sectors)
            return BLKIF_RSP_ERROR;
        move_sectors(op, sector,
                     peer.data + (size_t)segs[i].gref * PAGE + segs[i].first_sect * SECTOR,
                     n * SECTOR);
        sector += n;
    }
    return count == 0 && op != BLKIF_OP_FLUSH_DISKCACHE ? BLKIF_RSP_ERROR : BLKIF_RSP_OKAY;
}

static int16_t serve_indirect(const struct blkif_request_indirect *request)
{
    static struct blkif_request_segment table[BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST * TABLE_SEGMENTS];
    unsigned pages = (request->nr_segments + TABLE_SEGMENTS - 1u) / TABLE_SEGMENTS;
    if (pages > BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST)
        return BLKIF_RSP_ERROR;
    for (unsigned i = 0; i < pages; i++) {
        if (request->indirect_grefs[i] >= (uint64_t)peer.data_pages)
            return BLKIF_RSP_ERROR;
        memcpy(table + i * TABLE_SEGMENTS,
               peer.data + (size_t)request->indirect_grefs[i] * PAGE, PAGE);
    }
    return serve_segments(request->indirect_op, request->sector_number, table,
                          request->nr_segments);
}

static int16_t serve_discard(const struct blkif_request_discard *request)
{
    if (request->sector_number + request->nr_sectors > (uint64_t)peer.sectors)
        return BLKIF_RSP_ERROR;
    memset(disk + request->sector_number * SECTOR, 0xDD, request->nr_sectors * SECTOR);
    return BLKIF_RSP_OKAY;
}

static struct blkif_response serve(const union blkif_sring_entry *entry)
{
    const struct blkif_request *request = &entry->req;
    struct blkif_response response;
    memset(&response, 0, sizeof response);
    response.id = request->id;
    response.operation = request->operation;
    if (request->operation == BLKIF_OP_INDIRECT) {
        response.operation = ((const uint8_t *)entry)[1];
        response.status = serve_indirect((const void *)entry);
    } else if (request->operation == BLKIF_OP_DISCARD)
        response.status = serve_discard((const void *)entry);
    else if (request->operation > BLKIF_OP_FLUSH_DISKCACHE)
        response.status = BLKIF_RSP_EOPNOTSUPP;
    else if (request->nr_segments > BLKIF_MAX_SEGMENTS_PER_REQUEST)
        response.status = BLKIF_RSP_ERROR;
    else
        response.status = serve_segments(request->operation, request->sector_number,
                                         request->seg, request->nr_segments);
    return response;
}

static void put(const struct blkif_response *response)
{
    memcpy(RING_GET_RESPONSE(&back, back.rsp_prod_pvt), response, sizeof *response);
    back.rsp_prod_pvt++;
}

/* Serve what is there in order, answer in another. */
static long serve_batch(void)
{
    static struct blkif_response responses[1 << 16];
    long count = 0;
    RING_IDX prod = __atomic_load_n(&back.sring->req_prod, __ATOMIC_ACQUIRE);
    if (RING_REQUEST_PROD_OVERFLOW(&back, prod))
        FAIL(EXIT_PROTOCOL, "req_prod %u is impossible", prod);
    while (back.req_cons != prod && !RING_REQUEST_CONS_OVERFLOW(&back, back.req_cons)) {
        union blkif_sring_entry entry;
        memcpy(&entry, RING_GET_REQUEST(&back, back.req_cons), sizeof entry);
        back.req_cons++;
        responses[count++] = serve(&entry);
    }
    for (long left = count; left > 0; left--) {
        unsigned pick = chance(&peer, (unsigned)left);
        put(&responses[pick]);
        responses[pick] = responses[left - 1];
    }
    return count;
}

static void run(void)
{
    for (long served = 0; served < peer.ops;) {
        int notify, more;
        long count = serve_batch();
        served += count;
        if (count > 0) {
            RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(&back, notify);
            peer_notify(&peer, notify, peer.call_fd);
        }
        RING_FINAL_CHECK_FOR_REQUESTS(&back, more);
        if (!more && served < peer.ops)
            peer_wait(&peer, peer.kick_fd);
    }
}

int main(int argc, char **argv)
{
    peer_options(&peer, argc, argv);
    peer_map(&peer);
    BACK_RING_ATTACH(&back, peer_ring(&peer), (RING_IDX)peer.start, peer_ring_bytes(&peer));
    if (RING_SIZE(&back) != (unsigned long)peer.slots)
        FAIL(EXIT_USAGE, "Xen makes %u slots of it", RING_SIZE(&back));
    disk = calloc((size_t)peer.sectors, SECTOR);
    if (disk == NULL)
        FAIL(EXIT_USAGE, "no memory");
    run();
    printf("{\"kicks\": %ld, \"held_off\": %ld, \"waits\": %ld}\n", peer.kicks, peer.held_off,
           peer.waits);
    return 0;
}
